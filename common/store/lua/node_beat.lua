-- Renews a node's lease, unless it was declared dead.
-- KEYS 1 nodes  2 tombstone of the node
-- ARGV 1 node  2 lease in ms
-- Returns {state, Redis ms}: 'fenced' (declared dead, nothing was renewed), 'known', or 'unknown' (it was not listed:
-- its first beat, or Redis lost its data).
-- Race: a node that was frozen beats while it is declared dead; the tombstone comes first, so it never comes back.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if redis.call('EXISTS', KEYS[2]) == 1 then return {'fenced', now} end
-- A Redis without memory refuses a script whose first write adds something. Nodes must live on in it, or nobody would
-- empty its queues: so this one takes itself off the list first.
local known = redis.call('ZREM', KEYS[1], ARGV[1]) == 1 and 'known' or 'unknown'
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return {known, now}
