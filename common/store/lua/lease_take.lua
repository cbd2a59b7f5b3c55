-- Takes or renews a lease.
-- KEYS 1 lease
-- ARGV 1 owner  2 milliseconds
-- Returns 1 if the lease is the owner's now, else 0.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
-- Removed first, since a Redis without memory refuses a script whose first write adds something.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
