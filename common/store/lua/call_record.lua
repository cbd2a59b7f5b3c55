-- Records a call again that a node runs: Redis was restarted, and forgot that it took it.
-- uses: heads, permits
-- KEYS 1 unacked hash of the node
-- ARGV 1 what all keys begin with  2 node  3 delivery tag  4 the message
-- Returns 1, or 0 if the ledger has the call already, here or with another node.
-- Race: its message may be in its queue again; the node has declared before that it began it, so nobody begins it.
local prefix, node, tag = ARGV[1], ARGV[2], ARGV[3]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses
local head = head_of(ARGV[4])
if not head then return 0 end
-- A Redis without memory refuses a script whose first write adds something, and this one must be heard.
redis.call('HDEL', KEYS[1], tag)
if redis.call('HSETNX', prefix .. 'calls:' .. head.queue, decoded(head.id), node .. ' ' .. tag) == 0 then return 0 end
redis.call('HSET', KEYS[1], tag, ARGV[4])
if head.permits ~= '0' then permits_take(head.permits, decoded(head.id)) end
if string.find(head.session, '^%*%d') then
  redis.call('HINCRBY', prefix .. 'session-calls:' .. head.tool, head.session, 1)
end
return 1
