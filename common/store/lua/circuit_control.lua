-- Closes or opens a tool's circuit by hand.
-- KEYS 1 circuit of the tool  2 its permits
-- ARGV 1 reset, or trip: open until a reset  2 what the operator says of it ('' for a reset)
-- Returns the transition {state before, state after, reason, generation}, or false if nothing was to change: the reset
-- of a closed circuit without failures, the trip of one that was tripped by hand (it gets the text).
-- Race: calls under way when it is reset or tripped; their generation is over, and their ends say nothing any more.
-- The pure twin is common/domain/circuit.py.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local state, generation, ends = unpack(redis.call('HMGET', KEYS[1], 'state', 'generation', 'until'))
local following = math.max(tonumber(generation or 0) + 1, now)
if ARGV[1] == 'reset' then
  if not state then return false end
  redis.call('HSET', KEYS[1], 'generation', following, 'reason', 'manual_reset')
  redis.call('HDEL', KEYS[1], 'state', 'failures', 'opened_at', 'until', 'note')
  redis.call('DEL', KEYS[2])
  return {state, 'closed', 'manual_reset', following}
end
if ARGV[1] ~= 'trip' then return redis.error_reply('ERR circuit_control knows reset and trip') end
if state == 'open' and not ends then
  redis.call('HSET', KEYS[1], 'note', ARGV[2])
  return false
end
redis.call('HSET', KEYS[1], 'state', 'open', 'generation', following, 'reason', 'manual_trip', 'opened_at', now,
  'note', ARGV[2])
redis.call('HDEL', KEYS[1], 'until')
redis.call('DEL', KEYS[2])
return {state or 'closed', 'open', 'manual_trip', following}
