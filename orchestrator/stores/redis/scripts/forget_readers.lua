-- Remove readers of a stream that hold nothing. Removing one that holds records would lose
-- them to the group, so the look and the removal are one step.
-- KEYS[1] stream; ARGV[1] group, ARGV[2] reader or '' for all, ARGV[3] milliseconds of silence.
-- Returns how many were removed.
local removed = 0
local readers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if readers.err then -- no such stream or group, so no readers either
  return removed
end
for _, info in ipairs(readers) do
  local reader = {}
  for i = 1, #info, 2 do
    reader[info[i]] = info[i + 1]
  end
  local named = ARGV[2] == '' or ARGV[2] == reader['name']
  if named and reader['pending'] == 0 and reader['idle'] >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], reader['name'])
    removed = removed + 1
  end
end
return removed
