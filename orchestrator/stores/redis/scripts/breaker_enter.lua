-- Whether an attempt may run.
-- KEYS[1] state, KEYS[2] names of all breakers, KEYS[3] attempts that run, KEYS[4] lease of the probe,
-- KEYS[5] last fencing number;
-- ARGV[1] name, ARGV[2] attempt, ARGV[3] milliseconds of a probe's lease, ARGV[4] declaration as JSON,
-- ARGV[5] milliseconds after which an attempt is forgotten that never ended.
-- Returns {'run'}, {'probe'} or {'wait', ms; -1: until the probe has ended or a person decides}.
local now = now_us()
local found = redis.call('HMGET', KEYS[1], 'state', 'until', 'forced', 'config')
if found[4] ~= ARGV[4] then
  redis.call('HSET', KEYS[1], 'config', ARGV[4])
  redis.call('SADD', KEYS[2], ARGV[1])
end
if found[3] == 'open' then
  return {'wait', -1}
end
local answer = 'run'
if found[1] == 'open' and found[3] ~= 'closed' then
  local left = math.ceil((tonumber(found[2]) - now) / 1000)
  if left > 0 then
    return {'wait', left}
  end
  if not acquire(KEYS[4], KEYS[5], ARGV[2], ARGV[3], '') then
    return {'wait', -1}
  end
  answer = 'probe'
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now - tonumber(ARGV[5]) * 1000))
redis.call('ZADD', KEYS[3], text(now), ARGV[2])
return {answer}
