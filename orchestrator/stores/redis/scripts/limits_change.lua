-- Change a limit for everybody, at once.  ARGV: prefix, name, "count period burst" or '' for as declared.
if ARGV[3] == '' then
  redis.call('HDEL', ARGV[1] .. 'limits:changed', ARGV[2])
else
  redis.call('HSET', ARGV[1] .. 'limits:changed', ARGV[2], ARGV[3])
end
-- All lines are looked at; there are as many as limits on which something waits.
for _, id in ipairs(redis.call('ZRANGE', ARGV[1] .. 'parked:due', 0, -1)) do
  pump(ARGV[1], id, clock())
end
