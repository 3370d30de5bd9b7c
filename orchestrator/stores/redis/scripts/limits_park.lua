-- Move a claimed message into the line of a limit. What is not ours any more is left alone.
-- KEYS[1] in-flight hash.
-- ARGV: prefix, serial, id, spec, units, place ('' for a newcomer), ms that its priority is worth, task id,
--       prefix of wake lists, separator before a priority, sign of a released list.
-- Returns 1, or 0 if the message was not ours.
local prefix, id = ARGV[1], ARGV[3]
local record = redis.call('HGET', KEYS[1], ARGV[2])
if not record then
  return 0
end
local head, claimed, length = string.match(record, '^(1:%d:(%d+):(%d+):)')
local list = string.sub(record, #head + 1, #head + length)
local cut = string.find(list, ARGV[10], 1, true)
local queue = cut and string.sub(list, 1, cut - 1) or list
-- Released, it comes before what is ready in its queue and priority, behind what was released before.
local back = queue .. ARGV[10] .. ARGV[11] .. (cut and string.match(list, '%d+$') or '0')
local wake = ARGV[9] .. queue
local now = clock()
-- In the order in which messages left their queue, whoever asked first; of one claim, by serial.
local place = ARGV[6] ~= '' and ARGV[6] or text(claimed - ARGV[7])
local name = string.format('%015d-%s %s %s', ARGV[2], redis.call('INCR', prefix .. 'parked:sequence'), ARGV[5], ARGV[8])
redis.call('HSET', prefix .. 'parked:messages', name,
  '1:' .. #back .. ':' .. #wake .. ':' .. back .. wake .. string.sub(record, #head + length + 1))
redis.call('ZADD', prefix .. 'parked:' .. id, place, name)
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('HSET', prefix .. 'parked:specs', id, ARGV[4])
pump(prefix, id, now)
return 1
