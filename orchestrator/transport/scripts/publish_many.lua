-- Publish a batch of messages, all of them or none.  After sender.lua.
-- KEYS: sender's record, times and messages of what is delayed, then list and wake list of each queue by turns.
-- Returns: 1, or -1 if this sender was shut.
-- ARGV: number of this call, seconds to keep the record, ms that a wake marker lives, channel of events, event ('' for
--       none), how many are delayed, how many go to each list; then for each delayed one name, delay ms, list, message;
--       then the messages, list by list.
local lists = (#KEYS - 3) / 2
local delayed, at = tonumber(ARGV[6]), 7 + lists
if begin(KEYS[1]) then
  return -1
end
for i = 1, lists do
  local kind = redis.call('TYPE', KEYS[2 + 2 * i]).ok
  if kind ~= 'list' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[2 + 2 * i] .. ' is no list')
  end
end
if delayed > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _ = 1, delayed do
    local name, ms, list, message = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    redis.call('HSET', KEYS[3], name, '1:' .. #list .. ':' .. list .. message)
    redis.call('ZADD', KEYS[2], now + ms, name)
    at = at + 4
  end
end
for i = 1, lists do
  local count = tonumber(ARGV[6 + i])
  redis.call('LPUSH', KEYS[2 + 2 * i], unpack(ARGV, at, at + count - 1))
  at = at + count
  wake(KEYS[3 + 2 * i], ARGV[3])
end
carried_out(KEYS[1], ARGV[1], ARGV[2])
if ARGV[5] ~= '' then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return 1
