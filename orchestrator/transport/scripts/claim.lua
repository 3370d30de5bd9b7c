-- Acknowledge messages, then move others from their lists into the owner's in-flight hash.
-- KEYS: in-flight hash, owners, paused queues, the lists (best first), one wake list a queue.
-- ARGV: owner, lease ms, last serial used, how many to take, marker ms, mark of a message that came back,
--       number of lists, number of queues, version of the stamps that are known to be called off, queue number of
--       each list, queue names, serials to acknowledge.
-- Returns: acknowledgements that were still ours, whether more waits, the number of a list that is none,
--          ids in these messages that were called off, stamps that were called off since that version (see
--          stamps_since), then list number and message by turns.
local inflight, owners, paused = KEYS[1], KEYS[2], KEYS[3]
local owner, lease, serial, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local mark, lists, queues = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local names, acks = 9 + lists, 9 + lists + queues
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local removed = 0
if #ARGV > acks then
  removed = redis.call('HDEL', inflight, unpack(ARGV, acks + 1))
end

if room > 0 and redis.call('HEXISTS', inflight, serial + 1) == 1 then
  -- The same call was carried out before and its answer lost: taking again would bury what it took.
  return redis.error_reply('ERR this claim was carried out before')
end

local shut = {}
if redis.call('EXISTS', paused) == 1 then
  for queue = 1, queues do
    shut[queue] = redis.call('SISMEMBER', paused, ARGV[names + queue]) == 1
  end
end

-- The names of what is shared fairly begin like this one's.
local prefix = string.sub(paused, 1, -#'paused' - 1)
local fair = {}
if redis.call('EXISTS', prefix .. 'fair') == 1 then
  for queue = 1, queues do
    fair[queue] = redis.call('SISMEMBER', prefix .. 'fair', ARGV[names + queue]) == 1
  end
end

local taken, broken, asked = {}, 0, room
for i = 1, lists do
  if room == 0 then break end
  local list = KEYS[3 + i]
  if not shut[tonumber(ARGV[9 + i])] then
    local got
    -- Lists come in pairs: what was released or came back, which has had its turn, and what is ready.
    local from = i
    if fair[tonumber(ARGV[9 + i])] and i % 2 == 0 then
      got, from = take_fairly(prefix, list, KEYS[2 + i], mark, room), i - 1
    else
      got = redis.pcall('RPOP', list, room)
    end
    if got and got.err then
      broken, got = i, nil
    end
    local kept = 0
    for j = 1, got and #got or 0 do
      -- A message that came back from a dead owner may have killed it: it travels alone.
      local suspect = string.sub(got[j], 1, #mark) == mark
      if suspect and #taken > 0 then
        room = 0
        break
      end
      taken[#taken + 1] = from
      taken[#taken + 1] = got[j]
      kept, room = j, room - 1
      if suspect then
        room = 0
        break
      end
    end
    for j = got and #got or 0, kept + 1, -1 do
      redis.call('RPUSH', list, got[j])
    end
  end
end

if #taken > 0 then
  local alone = #taken == 2 and '1' or '0'
  local fields = {}
  for i = 1, #taken, 2 do
    local list = KEYS[3 + taken[i]]
    serial = serial + 1
    fields[i] = serial
    fields[i + 1] = '1:' .. alone .. ':' .. now .. ':' .. #list .. ':' .. list .. taken[i + 1]
  end
  local stored = redis.pcall('HSET', inflight, unpack(fields))
  if type(stored) == 'table' and stored.err then
    for i = #taken - 1, 1, -2 do
      redis.call('RPUSH', KEYS[3 + taken[i]], taken[i + 1])
    end
    return redis.error_reply(stored.err)
  end
  redis.call('ZADD', owners, now + lease, owner)
end

local off, stamps, revoked = {}, {}, prefix .. 'revoked'
if #taken > 0 and redis.call('EXISTS', revoked, revoked .. ':stamps') > 0 then
  for i = 2, #taken, 2 do
    called_off(revoked, taken[i], off)
  end
  stamps = stamps_since(revoked, ARGV[9])
end

local more = 0
if asked > 0 and room == 0 then
  for i = 1, lists do
    local queue = tonumber(ARGV[9 + i])
    if not shut[queue] and redis.call('EXISTS', KEYS[3 + i], prefix .. 'fair:ring:' .. KEYS[3 + i]) > 0 then
      more = 1
      local wake = KEYS[3 + lists + queue]
      if redis.call('EXISTS', wake) == 0 then
        redis.call('LPUSH', wake, '1')
        redis.call('PEXPIRE', wake, ARGV[5])
      end
      break
    end
  end
end
return {removed, more, broken, off, stamps, unpack(taken)}
