-- Gives a lease back, if it is still the owner's.
-- KEYS 1 lease
-- ARGV 1 owner
-- Returns 1 if it was the owner's, else 0.
-- Race: a lease that ran out and went to another is not taken from that one.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
