-- First owner wins; the same owner asking again still holds it, for a new span.
-- KEYS[1] key; ARGV[1] owner, ARGV[2] milliseconds. Returns 1 if ARGV[1] holds the key.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
