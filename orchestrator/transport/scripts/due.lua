-- Move messages whose time has come to the back of their queues.
-- KEYS: times, messages.  ARGV: how many, prefix of wake lists, separator before a priority, marker ms.
-- Returns: how many were moved, ms until the next one is due (-1: none waits).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moved = 0
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local record = redis.call('HGET', KEYS[2], name)
  local pushed = 0
  if record then
    local head, length = string.match(record, '^(1:(%d+):)')
    local list = string.sub(record, #head + 1, #head + length)
    pushed = redis.pcall('LPUSH', list, string.sub(record, #head + length + 1))
    local cut = string.find(list, ARGV[3], 1, true)
    local wake = ARGV[2] .. (cut and string.sub(list, 1, cut - 1) or list)
    if redis.call('EXISTS', wake) == 0 then
      redis.call('LPUSH', wake, '1')
      redis.call('PEXPIRE', wake, ARGV[4])
    end
  end
  if type(pushed) == 'number' then
    redis.call('ZREM', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name)
    moved = moved + 1
  else
    -- Its list has become something else: try again later, behind the others.
    redis.call('ZADD', KEYS[1], now + 60000, name)
  end
end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #next == 0 then
  return {moved, -1}
end
return {moved, math.max(0, next[2] - now)}
