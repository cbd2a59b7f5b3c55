-- Takes away an answer of a client that its worker has read.
-- KEYS 1 where the answer was laid
-- ARGV 1 the answer as it was read
-- Returns 1 if it was taken away, else 0.
-- Race: a second one may have been laid in its place meanwhile, and has not been read.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end
return 0
