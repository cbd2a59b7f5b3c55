-- Stores what a probe found of a tool's health, unless the tool was changed or removed while it was asked.
-- KEYS 1 versions  2 health  3 registry version  4 changes  5 audit
-- ARGV 1 tool id  2 version of the definition that was asked  3 the record as read before the probe ('' if none)
--      4 the record (JSON)  5 channel
--      6 .. field and value of the event for the audit: given if the grade became another, and only then
-- Returns 1 if stored, 0 if the definition or the record is another by now.
-- Race: a prober that was held up finds that another has told since, or that the record was taken away: what it
-- found is older, and is dropped. So who compared the grade with the one it replaces compared with the right one.
-- A grade that stays is not announced: hundreds of tools are probed all the time, and each version wakes everybody.
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') ~= tonumber(ARGV[2]) then return 0 end
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
if #ARGV < 6 then return 1 end
local version = redis.call('INCR', KEYS[3])
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[5], version)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('XADD', KEYS[5], '*', 'at', now, unpack(ARGV, 6))
return 1
