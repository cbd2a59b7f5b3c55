-- Moves a place in the chain on: the head (the last record that is sealed), or that of a sink (the last it has safely).
-- KEYS 1 chain  2 marks
-- ARGV 1 who asks  2 field  3 its value as he knows it ('' for none)  4 its new value
--      5.. number and place of each mark to set
-- Returns 'put'; 'fenced': another is the keeper; or 'changed': it has another value by now.
-- Race: of two keepers that both think they are the one, the later is named in the chain, and the other is refused; and
-- neither moves anything on from where it is not. So the chain never forks.
if redis.call('HGET', KEYS[1], 'keeper') ~= ARGV[1] then return 'fenced' end
if (redis.call('HGET', KEYS[1], ARGV[2]) or '') ~= ARGV[3] then return 'changed' end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
if ARGV[5] then redis.call('ZADD', KEYS[2], unpack(ARGV, 5)) end
return 'put'
