-- A process tells its figures; those of processes that are silent are forgotten.
-- KEYS 1 who has told lately  2 the figures of this process
-- ARGV 1 name of the process  2 its figures  3 ms for which they are kept
-- Returns 1.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
