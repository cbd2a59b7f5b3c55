-- Who lives, who owns which session, and the caps on sessions. Uses of the script around it: prefix, now, heads.

-- Whether a node's lease runs. Time does not pass within a script, so each is asked once.
local lives = {}
local function living(node)
  if lives[node] == nil then
    local ends = redis.call('ZSCORE', prefix .. 'nodes', node)
    lives[node] = ends and tonumber(ends) > now or false
  end
  return lives[node]
end

-- Whether a node may be dispossessed: it was declared dead, or is not listed. A lease that merely ran out takes nothing
-- away, for its owner may renew it and go on.
local function gone(node)
  local ends = redis.call('ZSCORE', prefix .. 'nodes', node)
  return not ends or tonumber(ends) == 0
end

-- Who owns a session, with which token, since when (ms); nil if nobody does. The owner may be dead.
local function owner_of(tool, session)
  local record = redis.call('HGET', prefix .. 'sessions:' .. tool, session)
  if not record then return nil end
  return string.match(record, '^(.+) (%d+) (%d+)$')
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
  local name = encoded(node)
  redis.call('SADD', prefix .. 'node-sessions:' .. name, tool .. '|' .. session)
  redis.call('SADD', prefix .. 'direct-queues:' .. name, 'tool.' .. tool)
  local tenant = string.match(session, '^([^:*]+):')
  if tenant then redis.call('SADD', prefix .. 'tenant-sessions:' .. tenant, tool .. '|' .. session) end
  return token
end

-- Which cap keeps a session from being created (of a whole head); nil if none does.
local function cap_reached(head)
  local most, tenant_most = tonumber(head.max_sessions), tonumber(head.tenant_max)
  if most > 0 and redis.call('HLEN', prefix .. 'sessions:' .. head.tool) >= most then return 'tool_limit' end
  local tenant = tenant_most > 0 and string.match(head.session, '^([^:*]+):')
  if tenant and redis.call('SCARD', prefix .. 'tenant-sessions:' .. tenant) >= tenant_most then
    return 'tenant_limit'
  end
  return nil
end
