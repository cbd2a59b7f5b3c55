-- Heads of messages (docs/decisions/0009), and ids as they stand in keys.

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

-- The beginning and the end of a message that is too large, behind a line with its size and SHA-1.
local function cut(message, kept)
  local half = math.floor(kept / 2)
  local line = string.format('\255oversized %d %s\n', #message, redis.sha1hex(message))
  return line .. string.sub(message, 1, half) .. string.sub(message, -half)
end
