-- Count the end of an attempt, once.
-- KEYS[1] state, KEYS[2] counts, KEYS[3] attempts that run, KEYS[4] lease of the probe;
-- ARGV[1] attempt, ARGV[2] good, failed or neither; as declared: ARGV[3] error rate, ARGV[4] minimum,
-- ARGV[5] window and ARGV[6] cooldown in ms.
-- Returns the state that it changed to, nothing if it did not.
local now = now_us()
local entered = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not entered then
  return nil
end
redis.call('ZREM', KEYS[3], ARGV[1])
local found = redis.call('HMGET', KEYS[1], 'state', 'since', 'forced')
local window, cooldown = tonumber(ARGV[5]), tonumber(ARGV[6])

if holds(KEYS[4], ARGV[1]) then
  redis.call('DEL', KEYS[4])
  if ARGV[2] == 'neither' or found[1] ~= 'open' then
    return nil
  end
  if ARGV[2] == 'good' then
    become(KEYS[1], KEYS[2], 'closed', now, 0)
    return 'closed'
  end
  become(KEYS[1], KEYS[2], 'open', now, cooldown)
  return 'open'
end

-- What began before the breaker last changed says nothing about the far side as it is now.
if ARGV[2] == 'neither' or found[1] == 'open' or (found[2] and tonumber(entered) < tonumber(found[2])) then
  return nil
end
local slice = math.floor(now / (math.max(1, window / 10) * 1000))
redis.call('HINCRBY', KEYS[2], (ARGV[2] == 'good' and 'g' or 'f') .. text(slice), 1)
redis.call('PEXPIRE', KEYS[2], math.ceil(window * 1.2) + 10)
if ARGV[2] == 'good' or found[3] == 'closed' then
  return nil
end
local good, failed = counted(KEYS[2], now, window)
if good + failed < tonumber(ARGV[4]) or failed < tonumber(ARGV[3]) * (good + failed) then
  return nil
end
become(KEYS[1], KEYS[2], 'open', now, cooldown)
-- So that people see why.
redis.call('HSET', KEYS[1], 'good', good, 'failed', failed)
return 'open'
