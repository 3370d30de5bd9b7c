-- KEYS[1] lease, KEYS[2] last fencing number; ARGV[1] owner, ARGV[2] milliseconds, ARGV[3] note.
-- Returns the fencing number, nothing if somebody else holds the lease.
return acquire(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
