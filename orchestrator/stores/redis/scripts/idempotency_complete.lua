-- Write the record of an effect and give its lease back.
-- KEYS[1] record, KEYS[2] lease;
-- ARGV[1] owner, ARGV[2] fingerprint, ARGV[3] value, ARGV[4] task id, ARGV[5] milliseconds to keep.
-- Returns 1 if the record is the owner's; 0 if somebody else holds the lease or was first.
local first = redis.call('HGET', KEYS[1], 'owner')
if first then
  return first == ARGV[1] and 1 or 0
end
local holder = redis.call('HGET', KEYS[2], 'owner')
if holder and holder ~= ARGV[1] then
  return 0
end
-- A lease that ran out without a successor is as good as held: nobody else has begun.
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fingerprint', ARGV[2], 'value', ARGV[3], 'task_id', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('DEL', KEYS[2])
return 1
