-- What every script shares that grants under limits, or moves messages that wait for one.
-- Times are microseconds of Redis's own clock. Keys, after the prefix:
--   limit:s:ID     ZSET unit -> time        sliding window: the log of what was granted
--   limit:g:ID     STRING time              GCRA: when the bucket is full again
--   limit:c:ID     ZSET owner -> time       slots: until when each is held
--   limit:held:ID  STRING time              nothing is granted before
--   limit:way:ID   HASH task id -> "until units place": released messages that have not asked yet
--   parked:ID      ZSET name -> place       the line, the next one first; a name is "serial-sequence units task-id"
--   parked:messages HASH name -> record;  parked:due ZSET ID -> time;  parked:specs HASH ID -> spec
--   limits:changed HASH name -> "count period burst": what a person changed

-- Messages are released so much before their turn, for the way to a worker.
local AHEAD = 50000
-- A released message that has not asked for so long is no longer counted on, and forgotten after the second span.
local ON_THE_WAY, FORGET = 3000000, 60000000
-- Between two looks at one line; messages that one look releases, and that may be on the way, at most.
local GAP, BATCH, MOST_ON_THE_WAY = 10000, 64, 256
-- Somebody may have changed a count by hand.
local NEVER, LOOK_ANYWAY = 3600000000, 10000000

local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

-- Lua would write large numbers with an exponent.
local function text(number)
  return string.format('%.0f', number)
end

local function spec_of(prefix, spec)
  local kind, count, period, burst, name = string.match(spec, '^(%a) (%d+) (%d+) (%d+) (.*)$')
  local changed = redis.call('HGET', prefix .. 'limits:changed', name)
  if changed then
    count, period, burst = string.match(changed, '^(%d+) (%d+) (%d+)$')
  end
  local read = {kind = kind, count = tonumber(count), period = tonumber(period), burst = tonumber(burst)}
  -- So many units can be granted at one moment.
  read.most = kind == 'g' and read.count > 0 and read.burst or read.count
  return read
end

-- When so many units can be granted at the soonest. Entries of the future count like those of the past: any
-- count + 1 neighbours in the log stay more than a period apart, in whatever order they were entered.
local function soonest(prefix, id, spec, units, now, owner)
  if spec.most < 1 then
    return now + NEVER
  end
  local at = math.max(now, tonumber(redis.call('GET', prefix .. 'limit:held:' .. id) or 0))
  -- A call heavier than a limit that was made smaller takes all of it.
  units = math.min(units, spec.most)
  local key = prefix .. 'limit:' .. spec.kind .. ':' .. id
  if spec.kind == 's' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. text(now - spec.period))
    local rank = units - spec.count - 1
    local entry = redis.call('ZRANGE', key, rank, rank, 'WITHSCORES')
    if entry[2] then
      at = math.max(at, entry[2] + spec.period + 1)
    end
  elseif spec.kind == 'g' then
    local full = tonumber(redis.call('GET', key) or 0)
    at = math.max(at, math.ceil(full + (units - spec.burst) * spec.period / spec.count))
  elseif not (owner and redis.call('ZSCORE', key, owner)) then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
    local over = redis.call('ZCARD', key) + units - spec.count
    if over > 0 then
      at = math.max(at, tonumber(redis.call('ZRANGE', key, over - 1, over - 1, 'WITHSCORES')[2]))
    end
  end
  return at
end

-- Returns the units of messages that were released and have not asked yet, and this task's place if it is one of them.
local function on_the_way(prefix, id, now, task)
  local way = prefix .. 'limit:way:' .. id
  local all, units, mine, size = redis.call('HGETALL', way), 0, nil, 0
  for i = 1, #all, 2 do
    local till, weight, place = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
    size = size + 1
    if all[i] == task then
      mine = place
    elseif tonumber(till) > now then
      units = units + weight
    elseif tonumber(till) + FORGET < now then
      redis.call('HDEL', way, all[i])
      size = size - 1
    end
  end
  return units, mine, size
end

-- Move a parked message to where released ones are taken from; false if that has become something else.
local function to_queue(prefix, name)
  local record = redis.call('HGET', prefix .. 'parked:messages', name)
  if record then
    local head, length, ring = string.match(record, '^(1:(%d+):(%d+):)')
    local first = #head + length
    local list, wake = string.sub(record, #head + 1, first), string.sub(record, first + 1, first + ring)
    local pushed = redis.pcall('LPUSH', list, string.sub(record, first + ring + 1))
    if type(pushed) ~= 'number' then
      return false
    end
    if redis.call('EXISTS', wake) == 0 then
      redis.call('LPUSH', wake, '1')
      redis.call('PEXPIRE', wake, 10000)
    end
    redis.call('HDEL', prefix .. 'parked:messages', name)
  end
  return true
end

-- Release from the head of a line what its limit lets through now, or soon; note when to look again.
-- Returns how many messages were released.
local function pump(prefix, id, now)
  local line, specs, due = prefix .. 'parked:' .. id, prefix .. 'parked:specs', prefix .. 'parked:due'
  local given = redis.call('HGET', specs, id)
  if not given then
    redis.call('ZREM', due, id)
    return 0
  end
  local spec = spec_of(prefix, given)
  local promised, _, size = on_the_way(prefix, id, now)
  local horizon = spec.kind == 'c' and now or now + AHEAD
  local going, again = {}, now + GAP
  while #going < BATCH * 2 and size < MOST_ON_THE_WAY do
    local at = #going / 2
    local head = redis.call('ZRANGE', line, at, at, 'WITHSCORES')
    if not head[1] then
      break
    end
    local units = math.min(tonumber(string.match(head[1], '^%S+ (%d+) ')), math.max(1, spec.most))
    if promised > 0 and promised + units > spec.most then
      again = now + AHEAD
      break
    end
    local ready = soonest(prefix, id, spec, units + promised, now)
    if ready > horizon then
      again = math.max(again, ready - (horizon - now))
      break
    end
    going[#going + 1], going[#going + 2] = head[1], head[2]
    promised, size = promised + units, size + 1
  end
  local released = 0
  for i = 1, #going, 2 do
    local name, place = going[i], going[i + 1]
    local units, task = string.match(name, '^%S+ (%d+) (.*)$')
    if to_queue(prefix, name) then
      redis.call('ZREM', line, name)
      redis.call('HSET', prefix .. 'limit:way:' .. id, task, text(now + ON_THE_WAY) .. ' ' .. units .. ' ' .. place)
      redis.call('PEXPIRE', prefix .. 'limit:way:' .. id, 600000)
      released = released + 1
    else
      redis.call('ZINCRBY', line, 60000, name)
    end
  end
  if redis.call('EXISTS', line) == 1 then
    redis.call('ZADD', due, text(math.min(again, now + LOOK_ANYWAY)), id)
  else
    redis.call('ZREM', due, id)
    redis.call('HDEL', specs, id)
  end
  return released
end
