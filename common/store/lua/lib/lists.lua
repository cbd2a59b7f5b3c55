-- Queues, direct lists, and the ledger of the calls under way. Uses of the script around it: prefix, heads.

-- Puts messages on the direct list of a node (its encoded name), and calls the node if the list was empty.
local function put_direct(name, queue, push, ...)
  local length = redis.call(push, prefix .. 'direct:' .. name .. ':' .. queue, ...)
  if length == select('#', ...) then redis.call('PUBLISH', prefix .. 'wake:' .. name, queue) end
end

-- Puts a message back in front of its tool's queue, and calls the workers if the queue was empty.
local function put_back(queue, message)
  if redis.call('RPUSH', queue, message) == 1 then redis.call('PUBLISH', prefix .. 'wake', queue) end
end

-- Moves what waits for a node on its direct list of one queue back to the queue; returns how many were moved.
local function return_direct(node, queue, most)
  local list, moved = prefix .. 'direct:' .. encoded(node) .. ':' .. queue, 0
  -- The newest first, each in front of those before it: so the oldest stands in front in the end.
  while moved < most do
    local message = redis.call('LPOP', list)
    if not message then break end
    put_back(queue, message)
    moved = moved + 1
  end
  return moved
end

-- Gives a call of this id its place in the ledger. False if it was begun before: it is under way, has its end, or was
-- declared begun by its node.
local function enter(head, id, place)
  if redis.call('EXISTS', 'celery-task-meta-' .. id, prefix .. 'began:' .. head.id) > 0 then return false end
  return redis.call('HSETNX', prefix .. 'calls:' .. head.queue, id, place) == 1
end

-- A call that had a session of a pool is counted there no more.
local function leave_pool(queue, session)
  if not string.find(session, '^%*%d') then return end
  local calls = prefix .. 'session-calls:' .. string.sub(queue, 6)
  if redis.call('HINCRBY', calls, session, -1) <= 0 then redis.call('HDEL', calls, session) end
end

-- Calls in for those that wait, since the tool had as many calls in flight as it may have.
local function call_in(queue)
  if redis.call('DEL', prefix .. 'held-back:' .. queue) == 1 then redis.call('PUBLISH', prefix .. 'wake', queue) end
end

-- A call leaves the ledger.
local function let_go(queue, id)
  redis.call('HDEL', prefix .. 'calls:' .. queue, id)
  call_in(queue)
end
