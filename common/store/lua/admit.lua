-- Decides whether a call may go on its tool's queue, and puts it there.
-- KEYS 1 queue  2 drain rate of the queue (see fetch.lua)  3 head of the queue: when its oldest message was queued
--      4 MCP session of the caller (left out where there is none)
-- ARGV 1 message (a JSON object)  2 wake channel  3 most messages (0: any number)  4 greatest age in ms (0: any)
--      5 idle time of the session in ms  6 SHA-1 of the session's record as the caller knows it
-- Returns one of
--   {'admitted', Redis ms, length}
--   {'session_gone', Redis ms}, {'session_changed', Redis ms, record}
--   {'queue_full', Redis ms, length, age in ms of the oldest or -1, messages a second drained, as text}
-- Whatever is refused takes nothing: each check comes before any write to what is checked.
-- The message is stamped with the time, first of all its members, so that the age of the oldest is read off its head.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

-- The oldest message may be megabytes long, and each look copies it: what was seen is kept for a second, in which the
-- oldest can only become younger. So it is looked at again before anybody is refused for it.
-- A message of a stock producer has no stamp: its age is not known (-1), and does not count.
local function age_of_oldest(bound)
  local stamp, seen = string.match(redis.call('GET', KEYS[3]) or '', '^(%S+) (%d+)$')
  local age = tonumber(stamp) and now - stamp or -1
  if not stamp or (age > bound and now - seen > 100) then
    stamp = string.match(redis.call('LINDEX', KEYS[1], -1), '^{"enqueued_at":(%d+)') or 'none'
    redis.call('SET', KEYS[3], string.format('%s %d', stamp, now), 'PX', 1000)
    age = tonumber(stamp) and now - stamp or -1
  end
  return age
end

-- Messages a second. What was measured fades: a queue that nobody serves any more has no rate. An average that began
-- a moment ago has not seen ten seconds yet, and is scaled up to them.
local function drained()
  local rate, at, start = string.match(redis.call('GET', KEYS[2]) or '', '^(%S+) (%d+) (%d+)$')
  if not rate then return 0 end
  local seen = 1 - math.exp(-math.max(at - start, 1000) / 10000)
  return rate * math.exp((at - now) / 10000) / seen
end

if KEYS[4] then
  local record = redis.call('GET', KEYS[4])
  if not record then return {'session_gone', now} end
  if redis.sha1hex(record) ~= ARGV[6] then return {'session_changed', now, record} end
end

local length = redis.call('LLEN', KEYS[1])
local most, oldest = tonumber(ARGV[3] or 0), tonumber(ARGV[4] or 0)
local age = -1
if length > 0 and oldest > 0 then age = age_of_oldest(oldest) end
if (most > 0 and length >= most) or (oldest > 0 and age > oldest) then
  return {'queue_full', now, length, age, string.format('%.3f', drained())}
end

-- First of the writes, since a Redis without memory refuses only a script's first.
redis.call('LPUSH', KEYS[1], string.format('{"enqueued_at":%d,', now) .. string.sub(ARGV[1], 2))
if KEYS[4] then redis.call('PEXPIRE', KEYS[4], ARGV[5]) end
-- Workers are woken only when the queue was empty: where it was not, a worker with a free slot is emptying it
-- already, and one without a free slot looks again as soon as it has one.
if length == 0 then redis.call('PUBLISH', ARGV[2], KEYS[1]) end
return {'admitted', now, length + 1}
