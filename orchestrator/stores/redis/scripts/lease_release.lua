-- KEYS[1] lease; ARGV[1] owner. Returns 1 if the owner held it until now.
if not holds(KEYS[1], ARGV[1]) then
  return 0
end
return redis.call('DEL', KEYS[1])
