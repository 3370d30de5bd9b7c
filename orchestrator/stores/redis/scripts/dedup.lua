-- What the scripts of deduplication share. A lock is a lease whose owner is a task id, with more fields:
-- since, sent, duplicates, attempt, and for the modes that take newer arguments: arguments, called, due, first.
-- Names of locks that may be there lie in a sorted set by their end.

local function now_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

local function last(key, index, name, milliseconds, now)
  redis.call('PEXPIRE', key, milliseconds)
  redis.call('ZADD', index, now + milliseconds, name)
end
