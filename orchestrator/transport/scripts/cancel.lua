-- Take a delayed message out.  KEYS: times, messages.  ARGV: name.  Returns its record, or nil if it is gone.
local record = redis.call('HGET', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return record
