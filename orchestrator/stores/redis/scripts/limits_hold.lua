-- Grant nothing under some limits for a while.  ARGV: prefix, microseconds, ids of the limits.
local now = clock()
local till = now + ARGV[2]
for i = 3, #ARGV do
  local key = ARGV[1] .. 'limit:held:' .. ARGV[i]
  if tonumber(redis.call('GET', key) or 0) < till then
    redis.call('SET', key, text(till), 'PX', text(math.ceil(ARGV[2] / 1000) + 1))
  end
end
