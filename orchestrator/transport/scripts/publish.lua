-- Put a message at the back of its queue, wake one idle consumer, tell who listens to events.  After sender.lua.
-- KEYS: sender's record, list, wake list of the queue[, publication key].
-- ARGV: number of this call, seconds to keep the record, seconds to keep the key, message, ms that a wake marker
--       lives[, channel of events, event].
-- Returns: 1, 0 if a successor with this key was published before, -1 if this sender was shut.
local before = begin(KEYS[1], KEYS[4])
if before then
  return before
end
redis.call('LPUSH', KEYS[2], ARGV[4])
carried_out(KEYS[1], ARGV[1], ARGV[2], KEYS[4], ARGV[3])
wake(KEYS[3], ARGV[5])
if ARGV[6] then
  redis.call('PUBLISH', ARGV[6], ARGV[7])
end
return 1
