-- Registers or changes a tool if nobody else changed it first, and writes that into the audit.
-- KEYS 1 tools  2 versions  3 registry version  4 changes  5 audit
-- ARGV 1 tool id  2 definition (JSON)  3 expected version: -1 any, 0 must be absent, n must be n  4 channel
--      5 who does it  6 what the audit's detail says behind the version
-- Returns {1, new version} or {0, version found}.
-- Race: two writers that both read version n; the second finds n+k and is told so.
-- The new version is the registry's own counter, so a tool removed and registered again never repeats one.
-- What an operator said of the tool (see tool_state_put.lua) stands elsewhere and stays as it is.
local found = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local expected = tonumber(ARGV[3])
if expected >= 0 and expected ~= found then return {0, found} end
local version = redis.call('INCR', KEYS[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], version)
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[4], version)
redis.call('XADD', KEYS[5], '*', 'kind', found == 0 and 'tool_registered' or 'tool_updated', 'actor', ARGV[5],
  'tool', ARGV[1], 'detail', string.format('version %d%s', version, ARGV[6]))
return {1, version}
