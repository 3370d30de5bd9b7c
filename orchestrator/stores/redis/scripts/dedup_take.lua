-- Take the lock of a call for as long as publishing may take, or tell whose it is.
-- KEYS[1] lock, KEYS[2] last fencing number, KEYS[3] index, KEYS[4] gate of a throttle;
-- ARGV[1] owner, ARGV[2] name, ARGV[3] mode, ARGV[4] arguments, '' if the mode does not take newer ones,
-- ARGV[5] time of the call in ms, 0 for now; spans in ms: ARGV[6] publishing, ARGV[7] window, ARGV[8] ttl,
-- ARGV[9] longest wait or 0.
-- Returns {'taken', delay in ms}, {'duplicate', owner} or {'unsure', owner}.
local owner, name, mode, now = ARGV[1], ARGV[2], ARGV[3], now_ms()
local window, ttl, most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local called = tonumber(ARGV[5])
if called == 0 or called > now then
  called = now
end

local held = redis.call('HMGET', KEYS[1], 'owner', 'sent', 'called', 'first', 'due')
if held[1] and held[1] ~= owner then
  if not held[2] then
    return {'unsure', held[1]}
  end
  redis.call('HINCRBY', KEYS[1], 'duplicates', 1)
  if ARGV[4] ~= '' then
    if called >= tonumber(held[3]) then
      redis.call('HSET', KEYS[1], 'arguments', ARGV[4], 'called', called)
    end
    if mode == 'debounce' then
      local due = math.max(tonumber(held[5]), called + window)
      if most > 0 then
        due = math.min(due, tonumber(held[4]) + most)
      end
      redis.call('HSET', KEYS[1], 'due', due)
    end
    if redis.call('PTTL', KEYS[1]) < ttl + window then
      last(KEYS[1], KEYS[3], name, ttl + window, now)
    end
  end
  return {'duplicate', held[1]}
end

local delay = 0
if mode == 'debounce' then
  local due = held[5] and tonumber(held[5]) or called + window
  delay = math.max(0, due - now)
elseif mode == 'throttle' then
  delay = math.max(0, redis.call('PTTL', KEYS[4]))
end
if not held[1] then
  acquire(KEYS[1], KEYS[2], owner, ARGV[6], '')
  redis.call('HSET', KEYS[1], 'since', now)
  if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[1], 'called', called, 'first', called, 'due', called + window)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  last(KEYS[1], KEYS[3], name, tonumber(ARGV[6]), now)
end
return {'taken', delay}
