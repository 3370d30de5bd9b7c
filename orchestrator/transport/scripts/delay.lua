-- Keep a message until its time.  After sender.lua.
-- KEYS: sender's record, times, messages[, publication key].
-- ARGV: number of this call, seconds to keep the record, seconds to keep the key, name, delay ms, list,
--       message[, channel of events, event].
-- Returns: 1, 0 if a successor with this key was published before, -1 if this sender was shut.
local before = begin(KEYS[1], KEYS[4])
if before then
  return before
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[3], ARGV[4], '1:' .. #ARGV[6] .. ':' .. ARGV[6] .. ARGV[7])
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5], ARGV[4])
carried_out(KEYS[1], ARGV[1], ARGV[2], KEYS[4], ARGV[3])
if ARGV[8] then
  redis.call('PUBLISH', ARGV[8], ARGV[9])
end
return 1
