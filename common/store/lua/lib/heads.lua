-- Heads of messages (docs/decisions/0009), and ids as they stand in keys.

-- As urllib.parse.quote with nothing safe.
local function encoded(text)
  return (string.gsub(text, '[^%w_.~-]', function(c) return string.format('%%%02X', string.byte(c)) end))
end

local function decoded(text)
  if not string.find(text, '%', 1, true) then return text end
  return (string.gsub(text, '%%(%x%x)', function(x) return string.char(tonumber(x, 16)) end))
end

-- The text of a head as a table: what every call needs of it; nil for what is no head.
local function head_from(text)
  local id, deadline, session, queue =
    string.match(text, '^1|([^|]+)|(%d+)|[^|]*|([^|]+)|%a+|%d+|%d+|%d+|%d+|(tool%.[^|]+)$')
  if not id then return nil end
  return {id = id, deadline = deadline, session = session, queue = queue, tool = string.sub(queue, 6), text = text}
end

-- The same head with all that stands in it.
local function whole(head)
  head.reply, head.leave, head.attempt, head.max_sessions, head.tenant_max, head.pool =
    string.match(head.text, '^1|[^|]+|%d+|([^|]*)|[^|]+|(%a+)|(%d+)|(%d+)|(%d+)|(%d+)|')
  return head
end

-- The head of a message, and where its text begins and ends in it; nil for one without.
local function head_of(message)
  local _, before = string.find(message, '^{"enqueued_at":%d+,"circuit":%d+,"canalgate":"')
  local behind = before and string.find(message, '"', before + 1, true)
  if not behind then return nil end
  return head_from(string.sub(message, before + 1, behind - 1)), before + 1, behind - 1
end

-- A message with another head (a whole one) in the place of its own.
local function with_head(message, first, last, head)
  local text = table.concat({'1', head.id, head.deadline, head.reply, head.session, head.leave, head.attempt,
    head.max_sessions, head.tenant_max, head.pool, head.queue}, '|')
  return string.sub(message, 1, first - 1) .. text .. string.sub(message, last + 1)
end

-- The head of a message that has no stamp yet, as it comes from its producer.
local function head_unstamped(message)
  return head_from(string.match(message, '^{"canalgate":"([^"]*)"') or '')
end

-- The message with the time at which it was queued and the generation of its tool's circuit, first of all its members.
local function stamped(message, at, generation)
  return string.format('{"enqueued_at":%.0f,"circuit":%.0f,', at, generation) .. string.sub(message, 2)
end

-- The beginning and the end of a message that is too large, behind a line with its size and SHA-1.
local function cut(message, kept)
  local half = math.floor(kept / 2)
  local line = string.format('\255oversized %d %s\n', #message, redis.sha1hex(message))
  return line .. string.sub(message, 1, half) .. string.sub(message, -half)
end
