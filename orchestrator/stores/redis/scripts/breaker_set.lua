-- A person decides.
-- KEYS[1] state, KEYS[2] counts, KEYS[3] names of all breakers, KEYS[4] lease of the probe;
-- ARGV[1] name, ARGV[2] open, closed, or '' to go on from closed as if nothing had happened.
-- Returns 0 if nobody knows this breaker.
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 0 then
  return 0
end
redis.call('DEL', KEYS[4])
become(KEYS[1], KEYS[2], 'closed', now_us(), 0)
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'forced')
else
  redis.call('HSET', KEYS[1], 'forced', ARGV[2])
end
return 1
