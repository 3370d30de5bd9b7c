-- What the scripts of circuit breakers share. State is a hash {state, until, since, forced, config}; the ends of
-- attempts are counted in another one, by tenths of the window; attempts that run lie in a sorted set by the time
-- they began; the probe is a lease. Times are in microseconds, spans in milliseconds.

-- Of what began and what changed within one millisecond it must be known which was first.
local function now_us()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

local function text(number)
  return string.format('%.0f', number)
end

local function counted(key, now, window)
  local slice, good, failed = math.max(1, window / 10) * 1000, 0, 0
  local current, found = math.floor(now / slice), redis.call('HGETALL', key)
  for i = 1, #found, 2 do
    local at = tonumber(string.sub(found[i], 2))
    if at <= current - 10 then
      redis.call('HDEL', key, found[i])
    elseif string.sub(found[i], 1, 1) == 'g' then
      good = good + tonumber(found[i + 1])
    else
      failed = failed + tonumber(found[i + 1])
    end
  end
  return good, failed
end

local function become(key, counts, state, now, wait)
  redis.call('HSET', key, 'state', state, 'since', text(now), 'until', text(now + wait * 1000))
  redis.call('DEL', counts)
end
