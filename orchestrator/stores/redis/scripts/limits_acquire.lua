-- Take units and slots of several limits, all or none.
-- KEYS[1] last fencing number.
-- ARGV: prefix, owner, task id ('' for what cannot park), ms since the epoch that its priority is worth, ms that a slot
--       lasts, microseconds that the caller can wait for its turn; then id, spec and units of each limit.
-- Returns {1, microseconds to wait, fencing number or ''}, or {0, number of the limit, microseconds, place in its line}.
local prefix, owner, task, bonus = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local patience, limits = tonumber(ARGV[6]), (#ARGV - 6) / 3
local now = clock()
local at, blocked, until_then, place, released = now, nil, 0, '', {}
local specs = {}
for i = 1, limits do
  local id, units = ARGV[3 * i + 4], tonumber(ARGV[3 * i + 6])
  local spec = spec_of(prefix, ARGV[3 * i + 5])
  specs[i] = spec
  local promised, mine = on_the_way(prefix, id, now, task)
  local latest = spec.kind == 'c' and now or now + patience
  local ready
  if mine then
    released[#released + 1], place = id, mine
    ready = soonest(prefix, id, spec, units, now, owner)
  else
    ready = soonest(prefix, id, spec, units + promised, now, owner)
    -- Whoever waits already, and ranks before it, comes first.
    local head = task ~= '' and redis.call('ZRANGE', prefix .. 'parked:' .. id, 0, 0, 'WITHSCORES') or {}
    local behind = head[2] and now / 1000 - bonus >= tonumber(head[2])
    if behind or (promised > 0 and promised + math.min(units, spec.most) > spec.most) then
      ready = math.max(ready, latest + 1)
    end
  end
  if ready > latest and ready > until_then then
    blocked, until_then = i, ready
  end
  at = math.max(at, ready)
end

for _, id in ipairs(released) do
  redis.call('HDEL', prefix .. 'limit:way:' .. id, task)
end

if blocked then
  for _, id in ipairs(released) do
    pump(prefix, id, now)
  end
  return {0, blocked, until_then - now, place}
end

local fence = ''
for i = 1, limits do
  local id, units, spec = ARGV[3 * i + 4], tonumber(ARGV[3 * i + 6]), specs[i]
  local key = prefix .. 'limit:' .. spec.kind .. ':' .. id
  if spec.kind == 's' then
    for unit = 1, math.min(units, spec.count) do
      redis.call('ZADD', key, text(at), owner .. ':' .. unit)
    end
    redis.call('PEXPIRE', key, text(math.ceil((at - now + spec.period) / 1000) + 1000))
  elseif spec.kind == 'g' then
    local full = math.max(tonumber(redis.call('GET', key) or 0), at)
    full = math.ceil(full + math.min(units, spec.burst) * spec.period / spec.count)
    redis.call('SET', key, text(full), 'PX', text(math.ceil((full - now) / 1000) + 1000))
  else
    redis.call('ZADD', key, text(now + ARGV[5] * 1000), owner)
    redis.call('PEXPIRE', key, text(ARGV[5] + 1000))
    fence = fence == '' and next_fence(KEYS[1]) or fence
  end
end
for _, id in ipairs(released) do
  pump(prefix, id, now)
end
return {1, at - now, fence}
