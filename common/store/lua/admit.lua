-- Decides whether a call may go on its tool's queue, and puts it there.
-- KEYS 1 queue  2 drain rate of the queue  3 MCP session of the caller (left out where there is none)
-- ARGV 1 message (a JSON object)  2 wake channel  3 most messages (0: any number)  4 greatest age in ms (0: any)
--      5 idle time of the session in ms  6 SHA-1 of the session's record as the caller knows it
-- Returns one of
--   {'admitted', Redis ms, length}
--   {'session_gone', Redis ms}, {'session_changed', Redis ms, record}
--   {'queue_full', Redis ms, length, age in ms of the oldest or -1, messages a second drained, as text}
-- Whatever is refused takes nothing: each check comes before any write.
-- The message is stamped with the time, first of all its members, so that the age of the oldest is read off its head.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

if KEYS[3] then
  local record = redis.call('GET', KEYS[3])
  if not record then return {'session_gone', now} end
  if redis.sha1hex(record) ~= ARGV[6] then return {'session_changed', now, record} end
end

local length = redis.call('LLEN', KEYS[1])
local age = -1
if length > 0 then
  -- A message of a stock producer has no stamp: its age is not known, and does not count.
  local stamp = string.match(redis.call('LINDEX', KEYS[1], -1), '^{"enqueued_at":(%d+)')
  if stamp then age = now - tonumber(stamp) end
end
local most, oldest = tonumber(ARGV[3] or 0), tonumber(ARGV[4] or 0)
if (most > 0 and length >= most) or (oldest > 0 and age > oldest) then
  local rate, at = string.match(redis.call('GET', KEYS[2]) or '', '^(%S+) (%d+)$')
  -- What was measured fades (see fetch.lua): a queue that nobody serves any more has no rate.
  if rate then rate = tonumber(rate) * math.exp((tonumber(at) - now) / 10000) end
  return {'queue_full', now, length, age, string.format('%.3f', rate or 0)}
end

if KEYS[3] then redis.call('PEXPIRE', KEYS[3], ARGV[5]) end
redis.call('LPUSH', KEYS[1], string.format('{"enqueued_at":%d,', now) .. string.sub(ARGV[1], 2))
-- Workers are woken only when the queue was empty: where it was not, a worker with a free slot is emptying it
-- already, and one without a free slot looks again as soon as it has one.
if length == 0 then redis.call('PUBLISH', ARGV[2], KEYS[1]) end
return {'admitted', now, length + 1}
