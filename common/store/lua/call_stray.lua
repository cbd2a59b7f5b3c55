-- Decides on a call that is recorded for a node which knows nothing of it: Redis was restarted, and forgot its last writes.
-- uses: heads, lists, permits
-- KEYS 1 unacked hash of the node
-- ARGV 1 what all keys begin with  2 node  3 delivery tag  4 1 if the node may have sent it, 0 if it is certain that it
--      has not  5 most attempts of a call
-- Returns 'gone': it is not recorded any more; 'ended': it has its end, or another node has begun it and will answer, and
-- what it held here is given back; 'returned': it is in its queue again; 'lost': nothing was changed, and finish.lua is
-- to answer it.
-- The note that it is unsent is not read: that it was sent may be what Redis forgot.
-- Race: another node may have begun it, all within the writes that were lost. So this is asked only when each node had
-- the time to declare what it has begun (docs/decisions/0009): then it is not run a second time.
local prefix, node = ARGV[1], ARGV[2]
--@uses
local message = redis.call('HGET', KEYS[1], ARGV[3])
if not message then return 'gone' end
local head, first, last = head_of(message)
if not head then return 'gone' end
local id, attempt = decoded(head.id), tonumber(whole(head).attempt) + 1
local declared = redis.call('GET', prefix .. 'began:' .. head.id)
local answered = redis.call('EXISTS', 'celery-task-meta-' .. id) == 1
local ended = answered or (declared and declared ~= node)
local unsent = ARGV[4] == '0' and not declared
if not ended and not unsent and (head.leave ~= 'safe' or attempt > tonumber(ARGV[5])) then return 'lost' end
redis.call('HDEL', KEYS[1], ARGV[3])
redis.call('HDEL', prefix .. 'unsent:' .. encoded(node), ARGV[3])
let_go(head.queue, id)
leave_pool(head.queue, head.session)
if answered then permits_back(head.permits, id) end
if ended then return 'ended' end
redis.call('DEL', prefix .. 'began:' .. head.id)
if not unsent then head.attempt = string.format('%d', attempt) end
-- The pool chooses again.
if string.sub(head.session, 1, 1) == '*' then head.session = '*' end
put_back(head.queue, with_head(message, first, last, head))
return 'returned'
