-- Heads of messages (docs/decisions/0009), and ids as they stand in keys.

-- As urllib.parse.quote with nothing safe.
local function encoded(text)
  if not string.find(text, '[^%w_.~-]') then return text end
  return (string.gsub(text, '[^%w_.~-]', function(c) return string.format('%%%02X', string.byte(c)) end))
end

local function decoded(text)
  if not string.find(text, '%', 1, true) then return text end
  return (string.gsub(text, '%%(%x%x)', function(x) return string.char(tonumber(x, 16)) end))
end

-- The head in a message behind what it begins with (a pattern), and where its text begins and ends; nil for one without:
-- what every call needs of it.
local function head_behind(message, beginning)
  local first, id, deadline, session, permits, queue, last = string.match(message,
    beginning .. '"canalgate":"()1|([^|"]+)|(%d+)|[^|"]*|([^|"]+)|%a+|%d+|%d+|%d+|%d+|([^|"]+)|(tool%.[^|"]+)()"')
  if not first then return nil end
  local text = string.sub(message, first, last - 1)
  local head = {id = id, deadline = deadline, session = session, permits = permits, queue = queue,
    tool = string.sub(queue, 6), text = text}
  return head, first, last - 1
end

-- The same head with all that stands in it.
local function whole(head)
  head.reply, head.leave, head.attempt, head.max_sessions, head.tenant_max, head.pool =
    string.match(head.text, '^1|[^|]+|%d+|([^|]*)|[^|]+|(%a+)|(%d+)|(%d+)|(%d+)|(%d+)|')
  return head
end

-- The head of a message, and where its text begins and ends in it; nil for one without.
local function head_of(message)
  return head_behind(message, '^{"enqueued_at":%d+,"circuit":%d+,')
end

-- A message with another head (a whole one) in the place of its own.
local function with_head(message, first, last, head)
  local text = table.concat({'1', head.id, head.deadline, head.reply, head.session, head.leave, head.attempt,
    head.max_sessions, head.tenant_max, head.pool, head.permits, head.queue}, '|')
  return string.sub(message, 1, first - 1) .. text .. string.sub(message, last + 1)
end

-- The head of a message that has no stamp yet, as it comes from its producer.
local function head_unstamped(message)
  return head_behind(message, '^{')
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
