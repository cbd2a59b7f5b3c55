-- Registers or changes a tool if nobody else changed it first.
-- KEYS 1 tools  2 versions  3 registry version  4 changes
-- ARGV 1 tool id  2 definition (JSON)  3 expected version: -1 any, 0 must be absent, n must be n  4 channel
-- Returns {1, new version} or {0, version found}.
-- Race: two writers that both read version n; the second finds n+k and is told so.
-- The new version is the registry's own counter, so a tool removed and registered again never repeats one.
local found = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local expected = tonumber(ARGV[3])
if expected >= 0 and expected ~= found then return {0, found} end
local version = redis.call('INCR', KEYS[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], version)
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[4], version)
return {1, version}
