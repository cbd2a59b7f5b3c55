-- Takes or renews the lease of the journal's keeper. Whoever takes it is from then on the only one whose writes count.
-- KEYS 1 lease  2 chain
-- ARGV 1 who asks  2 ms
-- Returns 1 if he is the keeper now, 0 if another is.
-- Race: a keeper that slept through its lease finds another one's name in the chain, and audit_chain_put.lua refuses it.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
-- Removed first, since a Redis without memory refuses a script whose first write adds something.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[2], 'keeper', ARGV[1])
return 1
