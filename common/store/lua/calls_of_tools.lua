-- Counts the sessions and calls of tools, all at one moment.
-- uses: heads
-- KEYS 1 nodes
-- ARGV 1 what all keys begin with  2.. queues of tools
-- Returns for each queue {sessions, calls that wait in it and on direct lists, calls that nodes hold}.
-- Race: a call that moves from one of these places to another is seen in one of them. What lies on a direct list of a
-- node that is listed no more there is none: its rescue has put it back.
local prefix = ARGV[1]
--@uses
local names = redis.call('ZRANGE', KEYS[1], 0, -1)
for i, node in ipairs(names) do names[i] = encoded(node) end
local found = {}
for i = 2, #ARGV do
  local queue = ARGV[i]
  local waiting = redis.call('LLEN', queue)
  for _, name in ipairs(names) do waiting = waiting + redis.call('LLEN', prefix .. 'direct:' .. name .. ':' .. queue) end
  local sessions = redis.call('HLEN', prefix .. 'sessions:' .. string.sub(queue, 6))
  found[#found + 1] = {sessions, waiting, redis.call('HLEN', prefix .. 'calls:' .. queue)}
end
return found
