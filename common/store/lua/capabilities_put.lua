-- Stores what a discovery found, unless the tool was changed or removed while it ran.
-- KEYS 1 versions  2 capabilities  3 registry version  4 changes  5 refresh
-- ARGV 1 tool id  2 capabilities (JSON)  3 version of the definition that was asked
--      4 Redis ms at which the discovery began  5 channel
-- Returns 1 if stored, 0 if the definition is another by now.
-- Race: a refresh wanted after the discovery began is kept, for this answer may be older than the wish.
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') ~= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local wanted = tonumber(redis.call('HGET', KEYS[5], ARGV[1]) or '0')
if wanted > 0 and wanted <= tonumber(ARGV[4]) then redis.call('HDEL', KEYS[5], ARGV[1]) end
local version = redis.call('INCR', KEYS[3])
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[5], version)
return 1
