-- Move a claimed message that cannot be delivered to the set-aside list.
-- KEYS: in-flight hash, set-aside list.  ARGV: serial, reason.
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then
  return 0
end
local head, length = string.match(record, '^(1:%d:%d+:(%d+):)')
redis.call('RPUSH', KEYS[2], '1:' .. ARGV[2] .. ':0:' .. length .. ':' .. string.sub(record, #head + 1))
return redis.call('HDEL', KEYS[1], ARGV[1])
