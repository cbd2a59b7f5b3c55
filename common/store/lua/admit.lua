-- Decides whether a call may go on a queue, and puts it there.
-- The queue is its tool's, or the direct list of the node that owns its session.
-- uses: heads, owners, lists, rates, circuit, permits, buckets, audit
-- KEYS 1 queue of the tool  2 drain rate of the queue (see fetch.lua)  3 head of the queue: when its oldest message
--      was queued  4 MCP session of the caller (left out where there is none)  5 MCP sessions of its tenant (left out
--      where they are not counted)
-- ARGV 1 message (a JSON object that begins with its head)  2 what all keys begin with  3 most messages (0: any number)
--      4 greatest age in ms (0: any)  5 1 if a session may be created, 0 if the tool is being drained
--      6 most calls at a time that try a half-open circuit  7 most events in the journal (0: any number)
--      8 idle time of the MCP session in ms  9 SHA-1 of its record as the caller knows it
--      10.. for each rate that the call counts for: its bucket, requests a minute, burst
-- Returns one of
--   {'admitted', Redis ms, length}
--   {'session_gone', Redis ms}, {'session_changed', Redis ms, record}
--   {'calls_at_bound', Redis ms, 'tenant' or 'client'}, {'rate', Redis ms, number of the rate, microseconds to wait}
--   {'journal_full', Redis ms}, {'draining', Redis ms}, {'tool_limit', Redis ms}, {'tenant_limit', Redis ms}
--   {'open', Redis ms, ms until it is tried again or -1}, {'probes_taken', Redis ms, ms until a permit ends}
--   {'queue_full', Redis ms, length, age in ms of the oldest or -1, messages a second drained, as text}
-- Whatever is refused takes nothing: each check comes before any write to what is checked.
-- The message is stamped with the time, first of all its members, so that the age of the oldest is read off its head.
-- A cap on sessions is kept in fetch.lua, where they are created; here it only refuses at once what would be refused.
local prefix = ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local now_us = ARGV[10] and t[1] * 1000000 + t[2]
--@uses

if KEYS[4] then
  local record = redis.call('GET', KEYS[4])
  if not record then return {'session_gone', now} end
  if redis.sha1hex(record) ~= ARGV[9] then return {'session_changed', now, record} end
end

if journal_full(ARGV[7]) then return {'journal_full', now} end
local head, _, last = head_unstamped(ARGV[1])
local counted = head.permits ~= '0'
if counted then
  local whose = permits_full(head.permits, decoded(head.id))
  if whose then return {'calls_at_bound', now, whose} end
end
local levels
if ARGV[10] then
  local wait, which, found = buckets_ask(10)
  if wait > 0 then return {'rate', now, which, wait} end
  levels = found
end

local owner, owned = nil, nil
local pooled = head.session == '*'
if not pooled then
  owner = owner_of(head.tool, head.session)
  owned = owner and not gone(owner)
end
if not owned then
  -- Of a pool nobody has a session of his own that he could go on with.
  if ARGV[5] == '0' then return {'draining', now} end
  local cap = not pooled and not owner and cap_reached(whole(head))
  if cap then return {cap, now} end
end

local name = owned and encoded(owner)
local list = owned and prefix .. 'direct:' .. name .. ':' .. KEYS[1] or KEYS[1]
local length = redis.call('LLEN', list)
local most, oldest = tonumber(ARGV[3]), tonumber(ARGV[4])
local age = -1
if length > 0 and oldest > 0 then
  age = age_of_oldest(list, owned and prefix .. 'head:' .. name .. ':' .. KEYS[1] or KEYS[3], oldest)
end
if (most > 0 and length >= most) or (oldest > 0 and age > oldest) then
  return {'queue_full', now, length, age, string.format('%.3f', drained(KEYS[2]))}
end

-- The last of the checks, for it may write. What it wrote is no harm if the queue then has no room in memory: a permit
-- ends by itself.
local circuit_key, permits_key = prefix .. 'circuit:' .. head.tool, prefix .. 'circuit-permits:' .. head.tool
local verdict, generation, wait, change =
  circuit_admit(circuit_key, permits_key, now, decoded(head.id), ARGV[6], head.deadline + 12000)
if verdict ~= 'admitted' then return {verdict, now, wait} end
-- Told before the call is queued: where Redis' ACL refuses the journal the script ends here, and the caller, who is told
-- that he may send again, has no call in the queue.
circuit_told(head.tool, change)
local call = told_of(ARGV[1], last)
if call then tell('policy_decision', head, call, 'outcome', 'allow') end
if counted then permits_take(head.permits, decoded(head.id)) end
if levels then buckets_fill(10, levels) end
local message = stamped(ARGV[1], now, generation)

if owned then
  put_direct(name, KEYS[1], 'LPUSH', message)
-- Workers are woken only when the queue was empty: where it was not, a worker with a free slot is emptying it
-- already, and one without a free slot looks again as soon as it has one.
elseif redis.call('LPUSH', KEYS[1], message) == 1 then
  redis.call('PUBLISH', prefix .. 'wake', KEYS[1])
end
if KEYS[4] then redis.call('PEXPIRE', KEYS[4], ARGV[8]) end
if KEYS[5] then
  redis.call('ZADD', KEYS[5], now + ARGV[8], KEYS[4])
  redis.call('PEXPIRE', KEYS[5], ARGV[8])
end
return {'admitted', now, length + 1}
