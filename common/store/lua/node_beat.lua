-- Renews a node's lease.
-- KEYS 1 nodes
-- ARGV 1 node  2 lease in ms
-- Returns {1 if the node was still registered else 0, Redis ms}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return {known, now}
