-- Hand out records that are due, oldest first; they come again unless they are settled in time.
-- KEYS: records, index.  ARGV: how many, ms until they come again.
-- Returns task id, record, task id, record, ...
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', at, 'LIMIT', 0, ARGV[1])
local found = {}
for _, id in ipairs(ids) do
  local record = redis.call('HGET', KEYS[1], id)
  if record then
    redis.call('ZADD', KEYS[2], at + ARGV[2], id)
    found[#found + 1] = id
    found[#found + 1] = record
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
return found
