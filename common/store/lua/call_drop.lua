-- Lets go of a message that a node holds and that gets no end from it: Celery's own path has it, or its call runs already.
-- uses: heads, lists
-- KEYS 1 unacked hash of the node
-- ARGV 1 what all keys begin with  2 node  3 delivery tag
-- Returns 1, or 0 if it is not recorded any more.
-- Race: whoever sends this twice finds the record gone: what it held is given back once.
local prefix, node, tag = ARGV[1], ARGV[2], ARGV[3]
--@uses
local message = redis.call('HGET', KEYS[1], tag)
if not message then return 0 end
local head = head_of(message)
redis.call('HDEL', KEYS[1], tag)
if head then
  redis.call('HDEL', prefix .. 'unsent:' .. encoded(node), tag)
  let_go(head.queue, decoded(head.id))
  leave_pool(head.queue, head.session)
end
return 1
