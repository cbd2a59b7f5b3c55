-- Removes a tool and all that is known of it, and writes that into the audit.
-- KEYS 1 tools  2 versions  3 registry version  4 changes  5 audit  6 circuit  7 permits of the circuit
--      8 pins of the tool  9 .. hashes in which the tool has a field: capabilities, refresh, states, health, unapproved
-- ARGV 1 tool id  2 expected version: -1 any, n must be n  3 channel  4 who does it
-- Returns {1, registry version} or {0, version found} (0: there was none).
-- The tool's sessions are not touched: their owners close them when they see that it is gone, and free them then.
local found = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local expected = tonumber(ARGV[2])
if found == 0 or (expected >= 0 and expected ~= found) then return {0, found} end
local version = redis.call('INCR', KEYS[3])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[6], KEYS[7], KEYS[8])
for i = 9, #KEYS do redis.call('HDEL', KEYS[i], ARGV[1]) end
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[3], version)
redis.call('XADD', KEYS[5], '*', 'kind', 'tool_removed', 'actor', ARGV[4], 'tool', ARGV[1], 'detail',
  string.format('version %d', found))
return {1, version}
