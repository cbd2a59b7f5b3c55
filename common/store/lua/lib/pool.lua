-- Which session of a pool gets the next call. Uses of the script around it: prefix, now, me, owners.

-- As MAX_POOL_SIZE in common/domain/tool.py.
local MOST_OF_POOL = 256

-- Whether a (whole) head has a pool that can be chosen from. Whoever can write a queue can write any number.
local function has_pool(head)
  local size = tonumber(head.pool)
  return size >= 1 and size <= MOST_OF_POOL
end

-- Whether this node may claim one more session of a pool, of which it has so many: up to its share at once, beyond it a
-- second after the last one was claimed. So a burst that one node fetches whole is not all its own, and a pool that
-- nobody else serves is full all the same.
local function may_grow(pool, own, last)
  if now - last >= 1000 then return true end
  return own * redis.call('ZCOUNT', prefix .. 'nodes', string.format('(%.0f', now), '+inf') < pool
end

-- The session of a pool for the next call (of a whole head): one without calls, else one more if the pool is not full, else the one with
-- the fewest calls. Sessions of dead nodes are claimed anew, so they count as none.
local function of_pool(head)
  local pool, own, last, fewest, chosen, free = tonumber(head.pool), 0, 0, nil, nil, nil
  for i = 0, pool - 1 do
    local session = '*' .. i
    local owner, _, since = owner_of(head.tool, session)
    if owner and not gone(owner) then
      local calls = tonumber(redis.call('HGET', prefix .. 'session-calls:' .. head.tool, session) or '0')
      if calls == 0 then return session end
      if not fewest or calls < fewest then fewest, chosen = calls, session end
      if owner == me then own = own + 1 end
      last = math.max(last, tonumber(since))
    else
      free = free or session
    end
  end
  if free and (not chosen or (may_grow(pool, own, last) and not cap_reached(head))) then return free end
  return chosen
end
