-- Move a claimed message from one owner to another, in flight all the time.
-- KEYS: owners, in-flight hash of the old owner, in-flight hash of the new one.
-- ARGV: serial there, serial here, new owner, lease ms, old owner.  Returns the record, or nil if the old owner has lost it.
local record = redis.call('HGET', KEYS[2], ARGV[1])
if not record then
  return nil
end
local time = redis.call('TIME')
-- Whoever dies of it from now on had it to itself.
redis.call('HSET', KEYS[3], ARGV[2], '1:1' .. string.sub(record, 4))
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4], ARGV[3])
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[5])
end
return record
