-- Takes the oldest records out of the journal, up to a place that every sink has behind it.
-- KEYS 1 journal  2 chain  3 marks
-- ARGV 1 who asks  2 the place (number, id, digest)  3 the first id that stays
--      4.. fields of the chain whose places must be at it or behind it
-- Returns how many were taken out; -1: another is the keeper; -2: one of those fields is not that far.
-- Race: whoever trims has read before how far the sinks are, and here it is asked again, in the same step.
if redis.call('HGET', KEYS[2], 'keeper') ~= ARGV[1] then return -1 end
local upto = tonumber(string.match(ARGV[2], '^%d+'))
for i = 4, #ARGV do
  local place = redis.call('HGET', KEYS[2], ARGV[i])
  if not place or tonumber(string.match(place, '^%d+')) < upto then return -2 end
end
local gone = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[3])
redis.call('HSET', KEYS[2], 'anchor', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', upto)
return gone
