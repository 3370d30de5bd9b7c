-- Extend an owner's lease.  KEYS: owners, in-flight hash.  ARGV: owner, lease ms.
-- Returns how many messages it holds, or -1 if the lease had run out and its messages went elsewhere.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return -1
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
return redis.call('HLEN', KEYS[2])
