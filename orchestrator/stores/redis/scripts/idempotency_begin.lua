-- Whether an effect may begin: look for its record and take its lease in one step.
-- KEYS[1] record, KEYS[2] lease, KEYS[3] last fencing number;
-- ARGV[1] owner, ARGV[2] milliseconds, ARGV[3] note of the lease.
-- Returns {'completed', fingerprint, value} or {'began', fence} or {'held', note, milliseconds left}.
local done = redis.call('HMGET', KEYS[1], 'fingerprint', 'value')
if done[1] then
  return {'completed', done[1], done[2]}
end
local fence = acquire(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if fence then
  return {'began', fence}
end
return {'held', redis.call('HGET', KEYS[2], 'note'), redis.call('PTTL', KEYS[2])}
