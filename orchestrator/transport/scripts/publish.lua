-- Put a message at the back of its queue and wake one idle consumer.
-- KEYS: list, wake list of the queue.  ARGV: message, ms that a wake marker lives.
redis.call('LPUSH', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('LPUSH', KEYS[2], '1')
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
