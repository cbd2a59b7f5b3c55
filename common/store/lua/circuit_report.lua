-- Tells a tool's circuit how one call ended.
-- KEYS 1 circuit of the tool  2 its permits
-- ARGV 1 invocation id  2 generation under which it was admitted  3 success, failure or neutral
--      4 failures in a row that open the circuit  5 ms for which it then stays open
-- Returns the transition {state before, state after, reason, generation}, or false if the state is as before.
-- Race: a call that began before a trip ends after it: its generation is over, and it neither closes nor opens
-- anything. In a half-open circuit only who holds a permit that counts is heard: of several the first decides.
-- A failure that is reported twice counts twice in a closed circuit.
-- The pure twin is common/domain/circuit.py.
local function circuit_report(circuit_key, permits_key, now, id, admitted, outcome, failures, open_ms)
  local state, generation, count = unpack(redis.call('HMGET', circuit_key, 'state', 'generation', 'failures'))
  generation, state = tonumber(generation or 0), state or 'closed'
  if tonumber(admitted) ~= generation or state == 'open' then return false end
  local half_open = state == 'half_open'
  if half_open then
    if tonumber(redis.call('ZSCORE', permits_key, id) or 0) <= now then return false end
    if outcome == 'neutral' then redis.call('ZREM', permits_key, id) end
  elseif outcome == 'success' then
    redis.call('HDEL', circuit_key, 'state', 'failures')
  end
  if outcome == 'neutral' or (outcome == 'success' and not half_open) then return false end

  local following = math.max(generation + 1, now)
  if outcome == 'success' then
    redis.call('HSET', circuit_key, 'generation', following, 'reason', 'half_open_probe_success')
    redis.call('HDEL', circuit_key, 'state', 'failures', 'opened_at')
    redis.call('DEL', permits_key)
    return {state, 'closed', 'half_open_probe_success', following}
  end
  count = tonumber(count or 0) + 1
  if not half_open and count < tonumber(failures) then
    redis.call('HSET', circuit_key, 'state', 'closed', 'failures', count)
    return false
  end
  local reason = half_open and 'half_open_probe_failed' or 'failure_threshold_exceeded'
  redis.call('HSET', circuit_key, 'state', 'open', 'failures', count, 'generation', following, 'reason', reason,
    'opened_at', now, 'until', now + open_ms)
  redis.call('DEL', permits_key)
  return {state, 'open', reason, following}
end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
return circuit_report(KEYS[1], KEYS[2], now, ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
