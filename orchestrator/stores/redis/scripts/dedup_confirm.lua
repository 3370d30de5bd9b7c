-- The message of a lock is sent: let the lock last. One that is gone or another's meanwhile stays so.
-- KEYS[1] lock, KEYS[2] index; ARGV[1] owner, ARGV[2] name, ARGV[3] milliseconds.
if not holds(KEYS[1], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'sent', 1)
last(KEYS[1], KEYS[2], ARGV[2], tonumber(ARGV[3]), now_ms())
return 1
