-- Writes what an operator decided on the pins of a tool, and lets every process know.
-- uses: pins
-- KEYS 1 versions  2 registry version  3 changes  4 pins of the tool  5 unapproved  6 audit
-- ARGV 1 tool id  2 channel  3.. as pins_written takes them
-- Returns 1; 0 if the pins are others by now; -1 if there is no such tool.
-- Race: an operator approves what he was shown while a discovery finds the definition changed once more; who comes
-- second finds another version, reads again, and sees another digest.
--@uses
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return -1 end
if not pins_written(ARGV[1], KEYS[4], KEYS[5], KEYS[6], 3) then return 0 end
local version = redis.call('INCR', KEYS[2])
redis.call('ZADD', KEYS[3], version, ARGV[1])
redis.call('PUBLISH', ARGV[2], version)
return 1
