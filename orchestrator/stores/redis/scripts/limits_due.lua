-- Look at the lines whose time has come.  ARGV: prefix, how many.
-- Returns how many messages were released, microseconds until the next line is due (-1: none waits).
local now, released = clock(), 0
local due = ARGV[1] .. 'parked:due'
for _, id in ipairs(redis.call('ZRANGE', due, '-inf', text(now), 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  released = released + pump(ARGV[1], id, now)
end
local next = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return {released, next[2] and math.max(0, next[2] - now) or -1}
