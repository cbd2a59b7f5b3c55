-- Removes a tool and all that is known of it.
-- KEYS 1 tools  2 versions  3 registry version  4 changes  5 capabilities  6 refresh
-- ARGV 1 tool id  2 expected version: -1 any, n must be n  3 channel
-- Returns {1, registry version} or {0, version found} (0: there was none).
local found = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local expected = tonumber(ARGV[2])
if found == 0 or (expected >= 0 and expected ~= found) then return {0, found} end
local version = redis.call('INCR', KEYS[3])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('HDEL', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[3], version)
return {1, version}
