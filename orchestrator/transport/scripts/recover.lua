-- Return the messages of owners whose lease ran out to the front of their queues; set aside what came back too often.
-- KEYS: owners, sweeps, set-aside list, last setback.
-- ARGV: lease ms, most deliveries, prefix of in-flight hashes, prefix of wake lists, separator before a priority,
--       marker ms, mark of a message that came back, seconds for which a setback is kept; number, time and life of the
--       broker of the last sweep that the caller knows of.
-- Returns: number, time and life of this sweep, whether the broker has lost the one that the caller knows of, whether
--          all leases were extended instead, owners gone, messages returned, messages set aside.
local lease, most, mark = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[7]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen = redis.call('HMGET', KEYS[2], 'number', 'at', 'server', 'life', 'began', 'began_at')
local number, last, life = tonumber(seen[1] or 0), tonumber(seen[2] or 0), seen[4]
local began, began_at = tonumber(seen[5] or 0), tonumber(seen[6] or 0)
-- Whoever may not ask for it is not told that the server has started again.
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
if not life or seen[3] ~= server then
  -- To the microsecond: another life of the same server, flushed in between, is another one.
  life, began, began_at = server .. time[1] .. '.' .. time[2], number, last
end
number = number + 1
redis.call('HSET', KEYS[2], 'number', number, 'at', now, 'server', server,
  'life', life, 'began', began, 'began_at', began_at)

-- A sweep of an earlier life that this one did not begin with is lost, and with it all that was written since the last
-- one that it did begin with.
local forgot, known_at = 0, tonumber(ARGV[10])
if ARGV[11] ~= life and tonumber(ARGV[9]) > began then
  forgot = 1
  local told = redis.call('HMGET', KEYS[4], 'life', 'known')
  if told[1] ~= life or known_at > tonumber(told[2]) then
    redis.call('HSET', KEYS[4], 'life', life, 'since', began_at, 'known', known_at, 'noticed', now)
    redis.call('EXPIRE', KEYS[4], ARGV[8])
  end
end

if now - last > lease / 2 then
  -- Nobody could renew while the broker was away: everyone gets the time to show that he lives.
  for _, owner in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    redis.call('ZADD', KEYS[1], 'XX', 'GT', now + lease, owner)
  end
  return {number, now, life, forgot, 1, 0, 0, 0}
end

local gone = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 20)
local returned, aside = 0, 0
for _, owner in ipairs(gone) do
  local inflight = ARGV[3] .. owner
  local serials = redis.call('HKEYS', inflight)
  -- The message that was claimed first goes to the very front, so it is pushed last.
  table.sort(serials, function(a, b) return tonumber(a) > tonumber(b) end)
  for _, serial in ipairs(serials) do
    local record = redis.call('HGET', inflight, serial)
    local head, alone, length = string.match(record, '^(1:(%d):%d+:(%d+):)')
    local list = string.sub(record, #head + 1, #head + length)
    local message = string.sub(record, #head + length + 1)
    local count = 0
    if string.sub(message, 1, #mark) == mark then
      count = tonumber(string.sub(message, #mark + 1, #mark + 4))
      message = '{' .. string.sub(message, #mark + 8)
    end
    -- Only a message that had its owner to itself is known to have started.
    if alone == '1' then
      count = count + 1
    end
    local pushed
    if count >= most then
      pushed = redis.pcall('RPUSH', KEYS[3], '1:poison:' .. count .. ':' .. #list .. ':' .. list .. message)
      aside = aside + 1
    else
      if string.sub(message, 1, 1) == '{' then
        message = mark .. string.format('%04d', count) .. '", ' .. string.sub(message, 2)
      end
      pushed = redis.pcall('RPUSH', list, message)
      returned = returned + 1
      local cut = string.find(list, ARGV[5], 1, true)
      local wake = ARGV[4] .. (cut and string.sub(list, 1, cut - 1) or list)
      if redis.call('EXISTS', wake) == 0 then
        redis.call('LPUSH', wake, '1')
        redis.call('PEXPIRE', wake, ARGV[6])
      end
    end
    if type(pushed) == 'number' then
      redis.call('HDEL', inflight, serial)
    end
  end
  if redis.call('EXISTS', inflight) == 0 then
    redis.call('ZREM', KEYS[1], owner)
  end
end
return {number, now, life, forgot, 0, #gone, returned, aside}
