-- How one tool's queue stands, all at one moment.
-- uses: heads, rates
-- KEYS 1 queue  2 nodes  3 ledger of its calls  4 its drain rate
-- ARGV 1 what all keys begin with  2 name of the queue
-- Returns {waiting, waiting on direct lists, in flight, ms that the oldest has waited (-1: nothing waits, or not known),
--   calls a second that were taken lately, as text}.
local prefix, queue = ARGV[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses

-- The age of what is at the right end of a list: its oldest.
local function age_of(list)
  local message = redis.call('LINDEX', list, -1)
  local stamp = message and string.match(message, '^{"enqueued_at":(%d+)')
  return stamp and now - stamp or -1
end

local direct, age = 0, age_of(KEYS[1])
for _, node in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local list = prefix .. 'direct:' .. encoded(node) .. ':' .. queue
  direct = direct + redis.call('LLEN', list)
  age = math.max(age, age_of(list))
end
return {redis.call('LLEN', KEYS[1]), direct, redis.call('HLEN', KEYS[3]), age, string.format('%.3f', drained(KEYS[4]))}
