-- Takes messages from queues and records them as begun by this node, in one step.
-- KEYS 1 unacked hash of the node  2.. queues, in the order in which they are served
-- ARGV 1 most messages  2 first delivery tag  3 seconds the unacked hash may outlive its node
--      4 largest message in bytes  5 bytes kept of a larger one  6 what the keys of drain rates begin with
-- Returns {taken, more, unusable}: a flat list of index of the queue among KEYS 2.., delivery tag, message; indices of
-- the queues that may hold more, in the order in which they are to be served next (every other one was seen empty);
-- indices of those that are no lists, which must not cost the others what was taken from them.
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
-- The rate at which a queue is drained, as an average in which older messages count the less (10 s: to a third): "rate
-- at start", times in ms. It began at 0, so who reads it divides by 1 - exp(-(at - start) / 10 s); unused, it expires.
local function drained(queue, messages, now)
  local key = ARGV[6] .. queue
  local rate, at, start = string.match(redis.call('GET', key) or '', '^(%S+) (%d+) (%d+)$')
  rate = messages / 10 + (rate and tonumber(rate) * math.exp((tonumber(at) - now) / 10000) or 0)
  redis.call('SET', key, string.format('%.3f %d %d', rate, now, tonumber(start or now)), 'EX', 60)
end
local live, counts, more, unusable = {}, {}, {}, {}
for i = 2, #KEYS do live[#live + 1] = i end
while left > 0 and #live > 0 do
  local served, unreached, count = {}, {}, #live == 1 and left or 1
  for _, i in ipairs(live) do
    local messages = left > 0 and redis.pcall('RPOP', KEYS[i], count)
    if left == 0 then unreached[#unreached + 1] = i
    elseif messages and messages.err then
      if not string.find(messages.err, 'WRONGTYPE', 1, true) then return messages end
      unusable[#unusable + 1] = i - 1
    elseif messages then
      for _, message in ipairs(messages) do
        if #message > largest then message = cut(message) end
        local name = string.format('%d', tag)
        redis.call('HSET', KEYS[1], name, message)
        for _, part in ipairs({i - 1, name, message}) do taken[#taken + 1] = part end
        tag, left = tag + 1, left - 1
      end
      counts[i] = (counts[i] or 0) + #messages
      if #messages == count then served[#served + 1] = i end
    end
  end
  for _, i in ipairs(served) do unreached[#unreached + 1] = i end
  live = unreached
end
if #taken > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  for i, messages in pairs(counts) do drained(KEYS[i], messages, now) end
end
for _, i in ipairs(live) do more[#more + 1] = i - 1 end
return {taken, more, unusable}
