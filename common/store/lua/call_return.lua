-- Puts a call that a node holds, and of which the backend has seen nothing, back in front of its queue.
-- uses: heads, lists
-- KEYS 1 unacked hash of the node
-- ARGV 1 what all keys begin with  2 node  3 delivery tag
-- Returns 1, or 0 if it is not recorded any more, or another node has declared that it began it.
-- Race: this waited over a restart of Redis that forgot its last writes, and within those another node has begun the call.
local prefix, node = ARGV[1], ARGV[2]
--@uses
local message = redis.call('HGET', KEYS[1], ARGV[3])
if not message then return 0 end
local head, first, last = head_of(message)
redis.call('HDEL', KEYS[1], ARGV[3])
redis.call('HDEL', prefix .. 'unsent:' .. encoded(node), ARGV[3])
let_go(head.queue, decoded(head.id))
leave_pool(head.queue, head.session)
local declared = redis.call('GET', prefix .. 'began:' .. head.id)
if declared and declared ~= node then return 0 end
redis.call('DEL', prefix .. 'began:' .. head.id)
if string.sub(head.session, 1, 1) == '*' then head.session = '*' end
put_back(head.queue, with_head(message, first, last, whole(head)))
return 1
