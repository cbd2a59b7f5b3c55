-- Decides whether a tool's circuit lets one call through; a half-open one gives it a permit.
-- KEYS 1 circuit of the tool  2 its permits
-- ARGV 1 invocation id  2 most permits at a time  3 Redis ms at which the call's permit ends
-- Returns one of
--   {'admitted', generation, 1 if a permit was taken else 0, transition or nil}
--   {'open', generation, ms until it is tried again, -1 if that is for an operator to say}
--   {'probes_taken', generation, ms until the first permit ends at the latest}
-- A transition is {state before, state after, reason, generation}. Whatever is refused has changed nothing.
-- Race: processes that find the open time over together; one of them makes the circuit half-open, and no more of them
-- than there are permits get one. A permit whose holder died counts until its end, and no longer.
-- The pure twin is common/domain/circuit.py.

-- The four returned one after the other. A healthy circuit costs one command: closed and without failures, it has no
-- hash, or one that keeps nothing but the generation and the last reason.
local function circuit_admit(circuit_key, permits_key, now, id, probes, permit_end)
  local state, generation, ends = unpack(redis.call('HMGET', circuit_key, 'state', 'generation', 'until'))
  generation = tonumber(generation or 0)
  if not state or state == 'closed' then return 'admitted', generation, 0, nil end
  local transition = nil
  if state == 'open' then
    if not ends then return 'open', generation, -1, nil end
    if tonumber(ends) > now then return 'open', generation, ends - now, nil end
    generation = math.max(generation + 1, now)
    redis.call('HSET', circuit_key, 'state', 'half_open', 'generation', generation, 'reason', 'open_duration_elapsed')
    redis.call('HDEL', circuit_key, 'until')
    transition = {'open', 'half_open', 'open_duration_elapsed', generation}
  elseif tonumber(redis.call('ZSCORE', permits_key, id) or 0) <= now then
    local later = string.format('(%.0f', now)
    if redis.call('ZCOUNT', permits_key, later, '+inf') >= tonumber(probes) then
      local first = redis.call('ZRANGEBYSCORE', permits_key, later, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      return 'probes_taken', generation, first[2] - now, nil
    end
  end
  redis.call('ZADD', permits_key, permit_end, id)
  redis.call('ZREMRANGEBYSCORE', permits_key, '-inf', now)
  return 'admitted', generation, 1, transition
end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local verdict, generation, detail, transition = circuit_admit(KEYS[1], KEYS[2], now, ARGV[1], ARGV[2], ARGV[3])
return {verdict, generation, detail, transition}
