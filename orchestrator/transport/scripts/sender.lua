-- What every publish begins and ends with. A sender numbers its calls, and its record keeps the last number that was
-- carried out; settle.lua shuts it, so that a call which is still on its way somewhere is not carried out later.
-- begin returns 0 where the publication key says that this successor was published before, -1 where the sender was
-- shut, nil to go on.
local function begin(record, once)
  if redis.call('GET', record) == 'shut' then
    return -1
  end
  if once and redis.call('EXISTS', once) == 1 then
    return 0
  end
end

local function carried_out(record, number, record_seconds, once, once_seconds)
  redis.call('SET', record, number, 'EX', record_seconds)
  if once then
    redis.call('SET', once, '1', 'EX', once_seconds)
  end
end

local function wake(list, marker_ms)
  if redis.call('EXISTS', list) == 0 then
    redis.call('LPUSH', list, '1')
    redis.call('PEXPIRE', list, marker_ms)
  end
end
