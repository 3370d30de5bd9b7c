-- Keep a message until its time.  KEYS: times, messages.  ARGV: name, delay ms, list, message.
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], ARGV[1], '1:' .. #ARGV[3] .. ':' .. ARGV[3] .. ARGV[4])
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
