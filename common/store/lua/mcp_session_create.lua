-- Begins an MCP session, unless its tenant has as many as it may.
-- KEYS 1 the session  2 MCP sessions of its tenant
-- ARGV 1 its record  2 idle time in ms  3 most sessions of the tenant
-- Returns 0, or the ms until the first of those that live expires if nobody uses it.
-- Sessions are counted by the time at which they expire, so what expired is gone from the count in the same moment.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then
  return redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2] - now
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[2], KEYS[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 0
