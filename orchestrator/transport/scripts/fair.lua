-- Fair sharing of a list among tenants: stride scheduling. Each tenant has a line of its own and a place in a ring; the
-- lowest place is served and moves on by one over the tenant's weight. A tenant that comes (back) starts CREDIT places
-- behind those that are served, at most: so a few jobs of a quiet tenant pass a busy one's thousands.
-- Keys, after the prefix: fair:line:LIST:TENANT (LIST), fair:ring:LIST and fair:idle:LIST (ZSET tenant -> place),
-- fair:weight:LIST (HASH), fair:at:LIST (STRING place that was served last).
local INTAKE, CREDIT = 1000, 10

-- Sort what came into lines. A message that came back from a dead owner goes to the list that is served without sorting.
local function sort_in(prefix, list, first, mark, at)
  local got = redis.pcall('RPOP', list, INTAKE)
  if not got or got.err then
    return got
  end
  local lines, weights = {}, {}
  for _, message in ipairs(got) do
    if string.sub(message, 1, #mark) == mark then
      redis.call('LPUSH', first, message)
    else
      local weight, tenant = string.match(message, '"fairness": ?"(%d+) ([^"]*)"')
      tenant = tenant or ''
      lines[tenant] = lines[tenant] or {}
      table.insert(lines[tenant], message)
      weights[tenant] = weight or '1'
    end
  end
  local ring, idle = prefix .. 'fair:ring:' .. list, prefix .. 'fair:idle:' .. list
  for tenant, messages in pairs(lines) do
    local put = redis.pcall('LPUSH', prefix .. 'fair:line:' .. list .. ':' .. tenant, unpack(messages))
    if type(put) == 'table' and put.err then
      -- Its line has become something else: what cannot be sorted is served without.
      redis.call('LPUSH', first, unpack(messages))
    elseif not redis.call('ZSCORE', ring, tenant) then
      local before = tonumber(redis.call('ZSCORE', idle, tenant) or at - CREDIT)
      redis.call('ZADD', ring, string.format('%.6f', math.max(before, at - CREDIT)), tenant)
      redis.call('ZREM', idle, tenant)
    end
    redis.call('HSET', prefix .. 'fair:weight:' .. list, tenant, weights[tenant])
  end
end

-- Take up to so many messages of a list, each tenant its share. Returns them, or an error.
local function take_fairly(prefix, list, first, mark, room)
  local ring, idle, last = prefix .. 'fair:ring:' .. list, prefix .. 'fair:idle:' .. list, prefix .. 'fair:at:' .. list
  local at = tonumber(redis.call('GET', last) or 0)
  local failed = sort_in(prefix, list, first, mark, at)
  if failed and failed.err then
    return failed
  end
  local taken = {}
  while #taken < room do
    local head = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local tenant = head[1]
    if not tenant then
      break
    end
    local line = prefix .. 'fair:line:' .. list .. ':' .. tenant
    local message = redis.pcall('RPOP', line)
    if type(message) == 'string' then
      taken[#taken + 1] = message
      at = math.max(at, tonumber(head[2]))
    end
    local weight = tonumber(redis.call('HGET', prefix .. 'fair:weight:' .. list, tenant) or 1) or 1
    local place = string.format('%.6f', head[2] + 1 / weight)
    if type(message) == 'string' and redis.call('EXISTS', line) == 1 then
      redis.call('ZADD', ring, place, tenant)
    else
      redis.call('ZREM', ring, tenant)
      redis.call('ZADD', idle, place, tenant)
    end
  end
  if #taken > 0 then
    redis.call('SET', last, string.format('%.6f', at))
    -- Who has been quiet for so long starts like a newcomer.
    for _, tenant in ipairs(redis.call('ZRANGE', idle, '-inf', at - CREDIT, 'BYSCORE', 'LIMIT', 0, 100)) do
      redis.call('ZREM', idle, tenant)
      redis.call('HDEL', prefix .. 'fair:weight:' .. list, tenant)
    end
  end
  return taken
end
