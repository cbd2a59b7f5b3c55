-- Asks for a discovery of a tool, now.
-- KEYS 1 versions  2 refresh
-- ARGV 1 tool id  2 channel
-- Returns 1, or 0 if there is no such tool.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local t = redis.call('TIME')
redis.call('HSET', KEYS[2], ARGV[1], t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
