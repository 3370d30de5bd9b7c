-- Note rows whose messages are settled. KEYS: the set. ARGV: names.
return redis.call("SADD", KEYS[1], unpack(ARGV))
