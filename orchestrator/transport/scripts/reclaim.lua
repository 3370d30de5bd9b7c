-- Wind up what a process held that has died: acknowledge what it had finished, return the rest uncharged, but for one.
-- KEYS: its in-flight hash, owners.
-- ARGV: owner, prefix of wake lists, separator before a priority, marker ms, serial that stays (0: none),
--       finished serials.
-- Returns: how many were returned, whether the one that stays is there.
-- The lists and wake lists are named by the records, so they cannot be declared.
for i = 6, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
local serials = redis.call('HKEYS', KEYS[1])
-- The message that was claimed first goes to the very front, so it is pushed last.
table.sort(serials, function(a, b) return tonumber(a) > tonumber(b) end)
local returned, stays = 0, 0
for _, serial in ipairs(serials) do
  if serial == ARGV[5] then
    stays = 1
  else
    local record = redis.call('HGET', KEYS[1], serial)
    local head, length = string.match(record, '^(1:%d:%d+:(%d+):)')
    local list = string.sub(record, #head + 1, #head + length)
    local pushed = redis.pcall('RPUSH', list, string.sub(record, #head + length + 1))
    -- A list that has become something else keeps the record where it is.
    if type(pushed) == 'number' then
      redis.call('HDEL', KEYS[1], serial)
      returned = returned + 1
      local cut = string.find(list, ARGV[3], 1, true)
      local wake = ARGV[2] .. (cut and string.sub(list, 1, cut - 1) or list)
      if redis.call('EXISTS', wake) == 0 then
        redis.call('LPUSH', wake, '1')
        redis.call('PEXPIRE', wake, ARGV[4])
      end
    end
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return {returned, stays}
