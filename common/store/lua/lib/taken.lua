-- What a step of fetch.lua has taken, kept until its end and written then: one command for many records.
-- Uses of the script around it: KEYS, prefix, me, lists, rates.

local left, tag = tonumber(ARGV[1]), tonumber(ARGV[2])
local taken, counts, gained, passed = {}, {}, {}, 0
local records, entries, mine, others = {}, {}, {}, {}

-- A message is recorded as begun; returns its delivery tag.
local function record(i, message, verdict, token)
  local name, n = string.format('%d', tag), #taken
  records[#records + 1], records[#records + 2] = name, message
  taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4], taken[n + 5] = i - 1, name, message, verdict, token
  tag, left = tag + 1, left - 1
  return name
end

-- The call of a message that is recorded gets its place in the ledger and in the counts.
local function enter(queue, id, name)
  local n = #entries
  entries[n + 1], entries[n + 2] = id, me .. ' ' .. name
  mine[id], gained[queue] = true, (gained[queue] or 0) + 1
end

-- A message goes to the owner of its session.
local function pass_on(owner, queue, message)
  others[owner] = others[owner] or {}
  local messages = others[owner][queue] or {}
  messages[#messages + 1], others[owner][queue] = message, messages
  passed = passed + 1
end

-- How many more calls of a tool may be in flight; those taken in this step are not counted in Redis yet.
local function room(queue, most)
  if most == 0 then return left end
  local held = gained[queue] or 0
  for _, calls in ipairs(redis.call('HVALS', prefix .. 'in-flight:' .. queue)) do held = held + calls end
  return math.max(0, math.min(left, most - held))
end

local function write_taken()
  if #records > 0 then
    redis.call('HSET', KEYS[1], unpack(records))
    redis.call('EXPIRE', KEYS[1], ARGV[3])
  end
  if #entries > 0 then redis.call('HSET', prefix .. 'calls', unpack(entries)) end
  for queue, calls in pairs(gained) do redis.call('HINCRBY', prefix .. 'in-flight:' .. queue, me, calls) end
  for owner, queues in pairs(others) do
    for queue, messages in pairs(queues) do
      -- In front, the oldest foremost: they have waited already.
      local turned = {}
      for i = #messages, 1, -1 do turned[#turned + 1] = messages[i] end
      put_direct(encoded(owner), queue, 'RPUSH', unpack(turned))
    end
  end
  for queue, messages in pairs(counts) do measure_drain(queue, messages) end
end
