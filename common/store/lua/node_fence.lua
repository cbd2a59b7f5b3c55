-- Declares a node dead whose lease has ended: from here on it is refused everywhere.
-- KEYS 1 nodes  2 tombstone of the node  3 audit
-- ARGV 1 node  2 0 if its lease must have ended; 1 it says goodbye itself; 2 its process is known to be gone
--      3 seconds the tombstone is kept  4 who says so
-- Returns 1 if it is declared dead now or was before, 0 if its lease runs after all.
-- Race: a node that renews at the same moment keeps its lease; the two decisions are one script each.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ends and tonumber(ends) > now and ARGV[2] == '0' then return 0 end
-- Taken off first, since a Redis without memory refuses a script whose first write adds something.
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('SET', KEYS[2], now, 'EX', ARGV[3], 'NX') and ARGV[2] ~= '1' then
  redis.call('XADD', KEYS[3], '*', 'kind', 'node_lost', 'at', now, 'node', ARGV[1], 'actor', ARGV[4])
end
-- It stays listed until what it left is worked off: a sweeper that dies half-way leaves the rest to the next.
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1
