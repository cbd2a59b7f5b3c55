-- Writes or removes what an operator sets for a tenant, if nobody else changed it first, and writes that into the audit.
-- KEYS 1 records  2 version of all records  3 changes  4 audit
-- ARGV 1 tenant  2 the record (JSON; '' removes it)  3 expected version: -1 any, 0 must be absent, n must be n  4 channel
--      5 who does it  6 kind of the event  7 what the audit's detail says
-- Returns {1, new version} or {0, version found} (0: there is none).
-- Race: two writers that both read version n; the second finds n+k and is told so.
-- A version is the counter of all records, so that of a tenant that was removed is never given again.
local found = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^%d+') or '0')
local expected = tonumber(ARGV[3])
if expected >= 0 and expected ~= found then return {0, found} end
if ARGV[2] == '' and found == 0 then return {0, 0} end
local version = redis.call('INCR', KEYS[2])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s', version, ARGV[2]))
end
redis.call('ZADD', KEYS[3], version, ARGV[1])
redis.call('PUBLISH', ARGV[4], version)
redis.call('XADD', KEYS[4], '*', 'kind', ARGV[6], 'actor', ARGV[5], 'tenant', ARGV[1], 'detail', ARGV[7])
return {1, version}
