-- Takes one node whose lease has ended off the list, and hands over what it had begun.
-- KEYS 1 nodes  2 unacked hash of the node
-- ARGV 1 node  2 1 to take it even if its lease runs (it said goodbye)
-- Returns the messages it held (empty list: none), or false if its lease runs after all.
-- Race: a node that renews at the same moment keeps its messages; the two decisions are one script each.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ends and tonumber(ends) > now and ARGV[2] ~= '1' then return false end
redis.call('ZREM', KEYS[1], ARGV[1])
local held = redis.call('HVALS', KEYS[2])
redis.call('DEL', KEYS[2])
return held
