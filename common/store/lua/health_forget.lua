-- Takes away the grade of a tool that is no longer probed: disabled, not watched, or removed.
-- KEYS 1 versions  2 health  3 registry version  4 changes
-- ARGV 1 tool id  2 version of the definition by which it is not to be probed (0: there is no such tool)  3 channel
-- Returns 1 if there was a grade, else 0.
-- Race: the tool was changed or registered again since that was decided: the grade may be the new definition's.
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') ~= tonumber(ARGV[2]) then return 0 end
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
local version = redis.call('INCR', KEYS[3])
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[3], version)
return 1
