-- Takes messages from queues and records them as begun by this node, in one step.
-- KEYS 1 unacked hash of the node  2.. queues, in the order in which they are served
-- ARGV 1 most messages  2 first delivery tag  3 seconds the unacked hash may outlive its node
-- Returns a flat list: index of the queue among KEYS 2.., delivery tag, message, ...
-- Race: a worker killed between popping and recording would lose what it popped; there is no between here.
-- One message a queue and a pass, so that a busy queue does not hold up the others.
local left, tag, taken = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
local live = {}
for i = 2, #KEYS do live[#live + 1] = i end
while left > 0 and #live > 0 do
  local still = {}
  for _, i in ipairs(live) do
    if left == 0 then break end
    local message = redis.call('RPOP', KEYS[i])
    if message then
      local name = string.format('%d', tag)
      redis.call('HSET', KEYS[1], name, message)
      taken[#taken + 1] = i - 1
      taken[#taken + 1] = name
      taken[#taken + 1] = message
      tag, left = tag + 1, left - 1
      still[#still + 1] = i
    end
  end
  live = still
end
if #taken > 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return taken
