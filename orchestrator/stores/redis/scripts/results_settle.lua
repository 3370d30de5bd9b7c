-- Forget records that are written; one that changed meanwhile is due again at once.
-- KEYS: records, index.  ARGV: task id, token, task id, token, ...
-- Returns how many had changed.
local now = redis.call('TIME')
local changed = 0
local due = now[1] * 1000 + math.floor(now[2] / 1000)
for at = 1, #ARGV, 2 do
  local record = redis.call('HGET', KEYS[1], ARGV[at])
  if not record or string.match(record, '^1 %u %-?%d+ %S+ (%S+) ') == ARGV[at + 1] then
    redis.call('HDEL', KEYS[1], ARGV[at])
    redis.call('ZREM', KEYS[2], ARGV[at])
  else
    redis.call('ZADD', KEYS[2], due, ARGV[at])
    changed = changed + 1
  end
end
return changed
