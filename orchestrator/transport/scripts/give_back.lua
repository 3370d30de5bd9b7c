-- Return claimed messages to the front of their queues, uncharged. What is not ours any more is left alone.
-- KEYS: in-flight hash.  ARGV: prefix of wake lists, separator before a priority, marker ms, serials as claimed.
-- The lists and wake lists are named by the records, so they cannot be declared.
local returned = 0
for i = #ARGV, 4, -1 do
  local record = redis.call('HGET', KEYS[1], ARGV[i])
  if record then
    local head, length = string.match(record, '^(1:%d:%d+:(%d+):)')
    local list = string.sub(record, #head + 1, #head + length)
    local pushed = redis.pcall('RPUSH', list, string.sub(record, #head + length + 1))
    -- A list that has become something else keeps the record where it is.
    if type(pushed) == 'number' then
      redis.call('HDEL', KEYS[1], ARGV[i])
      returned = returned + 1
      local cut = string.find(list, ARGV[2], 1, true)
      local wake = ARGV[1] .. (cut and string.sub(list, 1, cut - 1) or list)
      if redis.call('EXISTS', wake) == 0 then
        redis.call('LPUSH', wake, '1')
        redis.call('PEXPIRE', wake, ARGV[3])
      end
    end
  end
end
return returned
