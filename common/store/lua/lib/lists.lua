-- Queues, direct lists, and what a call under way holds. Uses of the script around it: prefix, heads.

-- Puts messages on the direct list of a node (its encoded name), and calls the node if the list was empty.
local function put_direct(name, queue, push, ...)
  local count = select('#', ...)
  local length = redis.call(push, prefix .. 'direct:' .. name .. ':' .. queue, ...)
  redis.call('HINCRBY', prefix .. 'direct-waiting', queue, count)
  if length == count then redis.call('PUBLISH', prefix .. 'wake:' .. name, queue) end
end

local function take_from_waiting(queue, count)
  local left = redis.call('HINCRBY', prefix .. 'direct-waiting', queue, -count)
  if left <= 0 then redis.call('HDEL', prefix .. 'direct-waiting', queue) end
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
  if moved > 0 then take_from_waiting(queue, moved) end
  return moved
end

-- Whether a call of this id was begun: it is under way, has its end, or was declared begun by its node.
local function begun(head, id)
  return redis.call('HEXISTS', prefix .. 'calls', id) == 1
    or redis.call('EXISTS', 'celery-task-meta-' .. id, prefix .. 'began:' .. head.id) > 0
end

-- A call that had a session of a pool is counted there no more.
local function leave_pool(queue, session)
  if not string.find(session, '^%*%d') then return end
  local calls = prefix .. 'session-calls:' .. string.sub(queue, 6)
  if redis.call('HINCRBY', calls, session, -1) <= 0 then redis.call('HDEL', calls, session) end
end

-- What calls of one queue hold beside their records is given back: their places in the ledger and in the counts.
local function let_go(node, queue, ids)
  redis.call('HDEL', prefix .. 'calls', unpack(ids))
  local key = prefix .. 'in-flight:' .. queue
  if redis.call('HINCRBY', key, node, -#ids) <= 0 then redis.call('HDEL', key, node) end
  if redis.call('DEL', prefix .. 'held-back:' .. queue) == 1 then
    redis.call('PUBLISH', prefix .. 'wake', queue)
  end
end
