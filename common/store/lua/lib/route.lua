-- What the scripts of calls and sessions share: heads of messages (docs/decisions/0009), who lives, direct lists.
-- Uses of the script around it: prefix, now.

-- As urllib.parse.quote with nothing safe.
local function encoded(text)
  return (string.gsub(text, '[^%w_.~-]', function(c) return string.format('%%%02X', string.byte(c)) end))
end

local function decoded(text)
  return (string.gsub(text, '%%(%x%x)', function(x) return string.char(tonumber(x, 16)) end))
end

-- The head of a message as a table, and the bytes before and behind its text; nil for one without.
local function head_of(message)
  local before, text = string.match(message, '^({"enqueued_at":%d+,"circuit":%d+,"canalgate":")([^"]*)"')
  if not text then return nil end
  local head = {}
  head.id, head.deadline, head.reply, head.session, head.leave, head.attempt, head.max_sessions, head.tenant_max,
    head.pool, head.queue =
    string.match(text, '^1|([^|]+)|(%d+)|([^|]*)|([^|]+)|(%a+)|(%d+)|(%d+)|(%d+)|(%d+)|(tool%.[^|]+)$')
  if not head.id then return nil end
  head.tool = string.sub(head.queue, 6)
  head.tenant = string.match(head.session, '^([^:*]+):')
  return head, before, string.sub(message, #before + #text + 1)
end

local function message_of(head, before, behind)
  return before .. table.concat({'1', head.id, head.deadline, head.reply, head.session, head.leave, head.attempt,
    head.max_sessions, head.tenant_max, head.pool, head.queue}, '|') .. behind
end

-- Whether a node's lease runs. Time does not pass within a script, so each is asked once.
local lives = {}
local function living(node)
  if lives[node] == nil then
    local ends = redis.call('ZSCORE', prefix .. 'nodes', node)
    lives[node] = ends and tonumber(ends) > now or false
  end
  return lives[node]
end

-- Who owns a session, with which token; nil if nobody does. The owner may be dead.
local function owner_of(tool, session)
  local record = redis.call('HGET', prefix .. 'sessions:' .. tool, session)
  if not record then return nil end
  return string.match(record, '^(.+) (%d+) %d+$')
end

-- Frees a session that is the node's (with this token, if one is given).
local function free_session(tool, session, node, token)
  local owner, held = owner_of(tool, session)
  if owner ~= node or (token and held ~= token) then return false end
  redis.call('HDEL', prefix .. 'sessions:' .. tool, session)
  redis.call('SREM', prefix .. 'node-sessions:' .. encoded(node), tool .. '|' .. session)
  local tenant = string.match(session, '^([^:*]+):')
  if tenant then redis.call('SREM', prefix .. 'tenant-sessions:' .. tenant, tool .. '|' .. session) end
  return true
end

-- Makes the node the owner, with the next token. The token only grows, also over a Redis that forgot the last one.
local function claim_session(tool, session, node)
  local time = redis.call('TIME')
  local last = tonumber(redis.call('GET', prefix .. 'fence') or '0')
  local token = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('SET', prefix .. 'fence', token)
  local before = owner_of(tool, session)
  if before then redis.call('SREM', prefix .. 'node-sessions:' .. encoded(before), tool .. '|' .. session) end
  redis.call('HSET', prefix .. 'sessions:' .. tool, session, string.format('%s %s %.0f', node, token, now))
  redis.call('SADD', prefix .. 'node-sessions:' .. encoded(node), tool .. '|' .. session)
  local tenant = string.match(session, '^([^:*]+):')
  if tenant then redis.call('SADD', prefix .. 'tenant-sessions:' .. tenant, tool .. '|' .. session) end
  return token
end

-- Which cap keeps a session from being created; nil if none does.
local function cap_reached(head)
  local most, tenant_most = tonumber(head.max_sessions), tonumber(head.tenant_max)
  if most > 0 and redis.call('HLEN', prefix .. 'sessions:' .. head.tool) >= most then return 'tool_limit' end
  if tenant_most > 0 and head.tenant
    and redis.call('SCARD', prefix .. 'tenant-sessions:' .. head.tenant) >= tenant_most then
    return 'tenant_limit'
  end
  return nil
end

-- Puts a message on a node's direct list, and calls the node if the list was empty.
local function put_direct(node, queue, message, push)
  local name = encoded(node)
  local length = redis.call(push, prefix .. 'direct:' .. name .. ':' .. queue, message)
  redis.call('HINCRBY', prefix .. 'direct-waiting', queue, 1)
  if length == 1 then
    redis.call('SADD', prefix .. 'direct-queues:' .. name, queue)
    redis.call('PUBLISH', prefix .. 'wake:' .. name, queue)
  end
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

-- What a call under way holds beside its record is given back: its place in the ledger and in the counts.
local function let_go(node, queue, id, session)
  redis.call('HDEL', prefix .. 'calls', id)
  local key = prefix .. 'in-flight:' .. queue
  if redis.call('HINCRBY', key, node, -1) <= 0 then redis.call('HDEL', key, node) end
  if redis.call('DEL', prefix .. 'held-back:' .. queue) == 1 then
    redis.call('PUBLISH', prefix .. 'wake', queue)
  end
  if string.sub(session, 1, 1) == '*' then
    local calls = prefix .. 'session-calls:' .. string.sub(queue, 6)
    if redis.call('HINCRBY', calls, session, -1) <= 0 then redis.call('HDEL', calls, session) end
  end
end
