-- Takes messages from queues and records them as begun by this node, in one step.
-- KEYS 1 unacked hash of the node  2.. queues, in the order in which they are served
-- ARGV 1 most messages  2 first delivery tag  3 seconds the unacked hash may outlive its node
--      4 largest message in bytes  5 bytes kept of a larger one  6 what the keys of drain rates begin with
-- Returns a flat list: index of the queue among KEYS 2.., delivery tag, message, ...
-- Fewer than were asked for: every queue was seen empty.
-- Race: a worker killed between popping and recording would lose what it popped; there is no between here.
-- One message a queue and a pass, so that a busy queue does not hold up the others; many at once from the last one left.
-- A message above the bound never leaves Redis whole, or it would stop one worker after the other: its beginning and
-- its end take its place, behind a line with its size and SHA-1 that no message can begin with (byte 255).
local function cut(message)
  local half = math.floor(tonumber(ARGV[5]) / 2)
  local line = string.format('\255oversized %d %s\n', #message, redis.sha1hex(message))
  return line .. string.sub(message, 1, half) .. string.sub(message, -half)
end
local left, tag, taken, largest = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, tonumber(ARGV[4])
-- The rate at which a queue is drained, as an average in which older messages count the less (10 s: to a third).
local function drained(queue, messages, now)
  local key = ARGV[6] .. queue
  local rate, at = string.match(redis.call('GET', key) or '', '^(%S+) (%d+)$')
  rate = messages / 10 + (rate and tonumber(rate) * math.exp((tonumber(at) - now) / 10000) or 0)
  redis.call('SET', key, string.format('%.3f %d', rate, now), 'EX', 600)
end
local live, counts = {}, {}
for i = 2, #KEYS do live[#live + 1] = i end
while left > 0 and #live > 0 do
  local still = {}
  local count = #live == 1 and left or 1
  for _, i in ipairs(live) do
    if left == 0 then break end
    local messages = redis.call('RPOP', KEYS[i], count)
    if messages then
      local recorded = {}
      for _, message in ipairs(messages) do
        if #message > largest then message = cut(message) end
        local name = string.format('%d', tag)
        recorded[#recorded + 1] = name
        recorded[#recorded + 1] = message
        taken[#taken + 1] = i - 1
        taken[#taken + 1] = name
        taken[#taken + 1] = message
        tag, left = tag + 1, left - 1
      end
      redis.call('HSET', KEYS[1], unpack(recorded))
      counts[i] = (counts[i] or 0) + #messages
      if #messages == count then still[#still + 1] = i end
    end
  end
  live = still
end
if #taken > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  for i, messages in pairs(counts) do drained(KEYS[i], messages, now) end
end
return taken
