-- What every script shares that holds something: the one lease primitive.
-- A lease is a hash {owner, fence, note} that expires. Fencing numbers grow for ever, also
-- over a Redis that lost its data, because they start from its clock.

local function next_fence(fences)
  local now = redis.call('TIME')
  local fence = tonumber(now[1]) * 1000000 + tonumber(now[2])
  local last = tonumber(redis.call('GET', fences) or '0')
  if fence <= last then
    fence = last + 1
  end
  local text = string.format('%.0f', fence)
  redis.call('SET', fences, text)
  return text
end

-- Returns the fencing number, or nil if somebody else holds the key. An owner that asks again
-- still holds it, under the same number, for a new span.
local function acquire(key, fences, owner, milliseconds, note)
  local held = redis.call('HMGET', key, 'owner', 'fence')
  if held[1] and held[1] ~= owner then
    return nil
  end
  local fence = held[2]
  if not held[1] then
    fence = next_fence(fences)
    redis.call('HSET', key, 'owner', owner, 'fence', fence, 'note', note)
  end
  redis.call('PEXPIRE', key, milliseconds)
  return fence
end

local function holds(key, owner)
  return redis.call('HGET', key, 'owner') == owner
end
