-- Begins the idle time of an MCP session anew that is counted for its tenant.
-- KEYS 1 the session  2 MCP sessions of its tenant
-- ARGV 1 idle time in ms
-- Returns 1, or 0 if there is no such session: it was ended meanwhile, and is not counted again.
local t = redis.call('TIME')
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[1], KEYS[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
