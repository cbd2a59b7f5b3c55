-- Calls under way of a tenant and of a client (common/domain/limits.py). Uses of the script around it: prefix, now.
-- Kept as sorted sets of ids, by the time at which one counts no more. What a head says of it:
-- <that time>:<most of the tenant>:<most of the client>:<tenant>:<client>, where a most of 0 is no bound; or 0 alone for
-- a call that is not counted.

local function permits_in(text)
  local ends, most, client_most, tenant, client = string.match(text, '^(%d+):(%d+):(%d+):([^:]+):([^:]+)$')
  if not ends then return {} end
  local of_tenant = prefix .. 'calls-of:' .. tenant
  return {{of_tenant, tonumber(most), 'tenant'}, {of_tenant .. ':' .. client, tonumber(client_most), 'client'}}, ends
end

-- Whose calls are as many as may be: 'tenant', 'client' or nil. One that is under way already counts once.
local function permits_full(text, id)
  for _, of in ipairs((permits_in(text))) do
    local key, most = of[1], of[2]
    if most > 0 and redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf') >= most
      and tonumber(redis.call('ZSCORE', key, id) or 0) <= now then
      return of[3]
    end
  end
  return nil
end

local function permits_take(text, id)
  local all, ends = permits_in(text)
  for _, of in ipairs(all) do
    local key = of[1]
    if of[2] > 0 then
      redis.call('ZADD', key, ends, id)
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      if redis.call('PTTL', key) < ends - now + 60000 then
        redis.call('PEXPIRE', key, string.format('%.0f', math.max(ends - now, 0) + 120000))
      end
    end
  end
end

local function permits_back(text, id)
  if text == '0' then return end
  for _, of in ipairs((permits_in(text))) do
    if of[2] > 0 then redis.call('ZREM', of[1], id) end
  end
end
