-- KEYS[1] state, KEYS[2] counts.
-- Returns {state, ms until a probe may run, since, forced, config, good, failed}; of an open one the counts that opened it.
local now = now_us()
local found = redis.call('HMGET', KEYS[1], 'state', 'until', 'since', 'forced', 'config', 'good', 'failed')
local config = found[5] and cjson.decode(found[5]) or {window = 1}
local good, failed = counted(KEYS[2], now, config.window * 1000)
if found[1] == 'open' then
  good, failed = found[6] or 0, found[7] or 0
end
local left = found[1] == 'open' and math.max(0, math.ceil((tonumber(found[2]) - now) / 1000)) or 0
return {found[1] or 'closed', left, found[3] or '0', found[4] or '', found[5] or '{}', good, failed}
