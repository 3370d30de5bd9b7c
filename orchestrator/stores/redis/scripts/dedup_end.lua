-- A run is over: give back what it holds.
-- KEYS[1] lock, KEYS[2] index, KEYS[3] lock of who runs ('latest'), KEYS[4] arguments that this run took over;
-- ARGV[1] owner, ARGV[2] name, ARGV[3] attempt that must have begun it, '' for any, ARGV[4] milliseconds for which
-- those arguments can be asked for again.
-- Returns the arguments of a later call that it ran with, or would have; nothing if there are none.
local function began(key)
  return ARGV[3] == '' or redis.call('HGET', key, 'attempt') == ARGV[3]
end

local arguments
if redis.call('EXISTS', KEYS[4]) == 1 and began(KEYS[4]) then
  arguments = redis.call('HGET', KEYS[4], 'arguments')
  redis.call('DEL', KEYS[4])
end
if holds(KEYS[1], ARGV[1]) and began(KEYS[1]) then
  arguments = redis.call('HGET', KEYS[1], 'arguments') or arguments
  redis.call('DEL', KEYS[1])
end
if holds(KEYS[3], ARGV[1]) and began(KEYS[3]) then
  redis.call('DEL', KEYS[3])
end
if redis.call('EXISTS', KEYS[1], KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[2])
end
if arguments and tonumber(ARGV[4]) > 0 then
  redis.call('HSET', KEYS[4], 'arguments', arguments)
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
end
return arguments
