-- What a step of fetch.lua has taken, kept until its end and written then: one command for many records.
-- Uses of the script around it: KEYS, prefix, me, heads, lists, rates, audit.

local left, tag = tonumber(ARGV[1]), tonumber(ARGV[2])
local taken, records, unsent, counts, others, begun, passed = {}, {}, {}, {}, {}, {}, 0

-- A message is recorded as begun, under the delivery tag `tag`. Where its session is claimed with it, the backend has
-- still to start, so it is noted as unsent in the same step: the node may die before it can say so itself.
local function record(i, message, verdict, token)
  local name, n, m = string.format('%d', tag), #taken, #records
  records[m + 1], records[m + 2] = name, message
  taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4], taken[n + 5] = i - 1, name, message, verdict, token
  if verdict == 'claimed' then
    unsent[#unsent + 1] = name
    unsent[#unsent + 1] = '1'
  end
  tag, left = tag + 1, left - 1
end

-- A message goes to the owner of its session.
local function pass_on(owner, queue, message)
  others[owner] = others[owner] or {}
  local messages = others[owner][queue] or {}
  messages[#messages + 1], others[owner][queue] = message, messages
  passed = passed + 1
end

-- How many more calls of a tool may be in flight.
local function room(queue, most)
  if most == 0 then return left end
  return math.max(0, math.min(left, most - redis.call('HLEN', prefix .. 'calls:' .. queue)))
end

local function write_taken()
  if #records > 0 then redis.call('HSET', KEYS[1], unpack(records)) end
  if #unsent > 0 then
    local key = prefix .. 'unsent:' .. encoded(me)
    redis.call('HSET', key, unpack(unsent))
    redis.call('EXPIRE', key, 86400)
  end
  for owner, queues in pairs(others) do
    for queue, messages in pairs(queues) do
      -- In front, the oldest foremost: they have waited already.
      local turned = {}
      for i = #messages, 1, -1 do turned[#turned + 1] = messages[i] end
      put_direct(encoded(owner), queue, 'RPUSH', unpack(turned))
    end
  end
  for _, of in ipairs(begun) do
    local head = whole(of[1])
    tell('invocation_start', head, of[2], 'session', head.session, 'node', me, 'attempt', head.attempt)
  end
  for queue, messages in pairs(counts) do measure_drain(queue, messages) end
end
