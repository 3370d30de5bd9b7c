-- An attempt is about to run.
-- KEYS[1] lock, KEYS[2] last fencing number, KEYS[3] index, KEYS[4] gate of a throttle, KEYS[5] lock of who runs
-- ('latest'), KEYS[6] arguments that this run took over;
-- ARGV[1] owner, ARGV[2] name, ARGV[3] mode, ARGV[4] attempt; spans in ms: ARGV[5] ttl, ARGV[6] until it is
-- renewed, ARGV[7] window.
-- Returns {'start', arguments or '', 1 if a lock is held while it runs} or {'wait', ms; -1: until another has ended}.
local owner, name, mode, attempt, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], now_ms()
local ttl, running, window = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local mine = holds(KEYS[1], owner)

if mode == 'until_started' then
  if mine then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[3], name)
  end
  return {'start', '', 0}
end

if mode == 'until_finished' then
  -- Free: it was given up while the message waited, or came back from a worker that died.
  if not acquire(KEYS[1], KEYS[2], owner, running, '') then
    return {'start', '', 0}
  end
  redis.call('HSETNX', KEYS[1], 'since', now)
  redis.call('HSET', KEYS[1], 'sent', 1, 'attempt', attempt)
  last(KEYS[1], KEYS[3], name, running, now)
  redis.call('ZADD', KEYS[3], now + math.max(ttl, running), name)
  return {'start', '', 1}
end

local wait = 0
if mine and mode == 'debounce' then
  wait = tonumber(redis.call('HGET', KEYS[1], 'due')) - now
elseif mine and mode == 'throttle' then
  wait = redis.call('PTTL', KEYS[4])
elseif mode == 'latest' and not acquire(KEYS[5], KEYS[2], owner, running, '') then
  wait = -1
end
if wait > 0 or (wait == -1 and mode == 'latest') then
  if mine then
    last(KEYS[1], KEYS[3], name, ttl + math.max(wait, 0), now)
  end
  return {'wait', wait}
end

-- Without the lock it has begun before, or the lock was given up: whatever it took over then is still its own.
local arguments = redis.call('HGET', KEYS[6], 'arguments')
if mine then
  arguments = redis.call('HGET', KEYS[1], 'arguments')
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[3], name)
  if mode == 'throttle' then
    redis.call('SET', KEYS[4], owner, 'PX', window)
  end
end
if arguments then
  redis.call('HSET', KEYS[6], 'arguments', arguments, 'attempt', attempt)
  redis.call('PEXPIRE', KEYS[6], ttl)
end
if mode == 'latest' then
  redis.call('HSETNX', KEYS[5], 'since', now)
  redis.call('HSET', KEYS[5], 'sent', 1, 'attempt', attempt)
  redis.call('ZADD', KEYS[3], now + math.max(ttl, running), name)
  return {'start', arguments or '', 1}
end
return {'start', arguments or '', 0}
