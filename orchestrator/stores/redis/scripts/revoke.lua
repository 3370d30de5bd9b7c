-- Keep names of what was called off: tasks, or stamps that tasks bear.
-- KEYS: names (ZSET name -> ms until which it is kept), their version, times of what is delayed.
-- ARGV: ms to keep, names kept at most, names.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local till = now + ARGV[1]
-- What waits for its time may come later than that.
local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
if last[2] then
  till = math.max(till, last[2] + ARGV[1])
end
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], 'GT', till, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[2] - 1)
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]))
-- A time: a count would begin anew, and come to what somebody knows, where a server lost it.
redis.call('SET', KEYS[2], string.format('%d%06d', time[1], time[2]))
