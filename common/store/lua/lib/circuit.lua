-- Whether a tool's circuit lets one call through; used where calls are admitted, and alone (circuit_admit.lua).
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

-- Puts a transition into the audit, if there was one. Uses of the script around it: prefix, heads.
local function circuit_told(tool, change)
  if not change then return end
  redis.call('XADD', prefix .. 'audit', '*', 'kind', 'circuit_state_change', 'tool', decoded(tool), 'reason', change[3],
    'detail', change[1] .. ' -> ' .. change[2])
end
