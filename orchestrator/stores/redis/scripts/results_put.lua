-- Take states of tasks, each only if it is news. The form of a record and the rule: orchestrator/contracts/progress.py.
-- KEYS: records, index.  ARGV: ms until a relay may take a new one, then for each record: task id, record.
-- Returns how many records wait.
local FORM = '^1 (%u) (%-?%d+) (%S+) '

local function news(old_kind, old_retries, old_started, kind, retries, started)
  if old_kind == 'S' or kind == 'S' then
    return kind == 'S'
  elseif kind == 'F' then
    return true
  elseif kind == 'W' or old_kind == 'W' then
    return old_kind == 'W'
  elseif kind == 'A' and (old_kind == 'B' or old_kind == 'F')
    and (tonumber(started) or 0) <= (tonumber(old_started) or 0) then
    return false
  elseif retries < 0 and old_retries >= 0 then
    return old_kind ~= 'F'
  elseif retries ~= old_retries then
    return retries > old_retries
  end
  return kind == 'R' or old_kind ~= 'R'
end

local now = redis.call('TIME')
local due = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
for at = 2, #ARGV, 2 do
  local id, record = ARGV[at], ARGV[at + 1]
  local old = redis.call('HGET', KEYS[1], id)
  local taken = true
  if old then
    local old_kind, old_retries, old_started = string.match(old, FORM)
    local kind, retries, started = string.match(record, FORM)
    taken = news(old_kind, tonumber(old_retries), old_started, kind, tonumber(retries), started)
    if taken and started == '-' and old_started ~= '-' then
      -- Whoever ends a task for a process that died does not know when it began.
      local head = string.len('1 ' .. kind .. ' ' .. retries .. ' ')
      record = string.sub(record, 1, head) .. old_started .. string.sub(record, head + 2)
    end
  end
  if taken then
    redis.call('HSET', KEYS[1], id, record)
    redis.call('ZADD', KEYS[2], 'NX', due, id)
  end
end
return redis.call('ZCARD', KEYS[2])
