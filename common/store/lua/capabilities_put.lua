-- Stores what a discovery found, with what it makes of the tool's pins, unless the tool was changed or removed meanwhile.
-- uses: pins
-- KEYS 1 versions  2 capabilities  3 registry version  4 changes  5 refresh  6 pins of the tool  7 unapproved  8 audit
-- ARGV 1 tool id  2 capabilities (JSON)  3 version of the definition that was asked
--      4 Redis ms at which the discovery began  5 channel  6.. as pins_written takes them; left out where definitions are
--      not compared
-- Returns 1 if stored, 0 if the definition is another by now, -1 if the pins are.
-- Race: a refresh wanted after the discovery began is kept, for this answer may be older than the wish. Of two
-- discoveries that judge by the same pins one is first, and the other judges again.
--@uses
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') ~= tonumber(ARGV[3]) then return 0 end
if ARGV[6] and not pins_written(ARGV[1], KEYS[6], KEYS[7], KEYS[8], 6) then return -1 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local wanted = tonumber(redis.call('HGET', KEYS[5], ARGV[1]) or '0')
if wanted > 0 and wanted <= tonumber(ARGV[4]) then redis.call('HDEL', KEYS[5], ARGV[1]) end
local version = redis.call('INCR', KEYS[3])
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[5], version)
return 1
