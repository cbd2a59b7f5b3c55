-- Which session of a pool gets the next call. Uses of the script around it: prefix, now, owners.

-- The session of a pool for the next call: one without calls, else one more if the pool is not full, else the one with
-- the fewest calls. Sessions of dead nodes are claimed anew, so they count as none.
local function of_pool(head)
  local fewest, chosen, free = nil, nil, nil
  for i = 0, tonumber(head.pool) - 1 do
    local session = '*' .. i
    local owner = owner_of(head.tool, session)
    if owner and not gone(owner) then
      local calls = tonumber(redis.call('HGET', prefix .. 'session-calls:' .. head.tool, session) or '0')
      if calls == 0 then return session end
      if not fewest or calls < fewest then fewest, chosen = calls, session end
    else
      free = free or session
    end
  end
  if free and (not chosen or not cap_reached(head)) then return free end
  return chosen
end
