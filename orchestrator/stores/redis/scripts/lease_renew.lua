-- KEYS[1] lease; ARGV[1] owner, ARGV[2] milliseconds. Returns 1 if the owner still held it.
if not holds(KEYS[1], ARGV[1]) then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
