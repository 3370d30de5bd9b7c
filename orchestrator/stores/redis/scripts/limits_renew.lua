-- Let a slot last longer.  KEYS[1] holders.  ARGV: owner, ms.  Returns 1 if the owner still held it.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[2] * 1000), ARGV[1])
-- Others may hold theirs for longer than this one.
if redis.call('PTTL', KEYS[1]) < ARGV[2] + 1000 then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + 1000))
end
return 1
