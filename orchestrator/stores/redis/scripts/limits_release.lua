-- Give slots back and hand them to who waits for them.  ARGV: prefix, owner, ids of the limits.  Returns how many were held.
local now, held = clock(), 0
for i = 3, #ARGV do
  held = held + redis.call('ZREM', ARGV[1] .. 'limit:c:' .. ARGV[i], ARGV[2])
  if redis.call('EXISTS', ARGV[1] .. 'parked:' .. ARGV[i]) == 1 then
    pump(ARGV[1], ARGV[i], now)
  end
end
return held
