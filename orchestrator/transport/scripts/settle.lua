-- Find out whether a call of a sender that got no answer was carried out; if not, it never will be.
-- KEYS: sender's record.  ARGV: number of the call, seconds to keep the record.
-- Returns: 1 if it was.
local last = redis.call('GET', KEYS[1])
if last and last ~= 'shut' and tonumber(last) >= tonumber(ARGV[1]) then
  return 1
end
redis.call('SET', KEYS[1], 'shut', 'EX', ARGV[2])
return 0
