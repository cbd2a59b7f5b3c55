-- Takes over a message without a head that a dead node held: nothing of it was begun.
-- uses: heads, owners
-- KEYS 1 unacked hash of the dead node  2 that of the node that takes it over
-- ARGV 1 what all keys begin with  2 the node that takes it over  3 delivery tag there  4 delivery tag here
-- Returns 1, or 0 if it is recorded there no more, or the node that asks is dead itself.
-- Race: two workers look after one dead node; the record is one's, and Celery's own path gets the message once.
local prefix = ARGV[1]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses
if not living(ARGV[2]) then return 0 end
local message = redis.call('HGET', KEYS[1], ARGV[3])
if not message then return 0 end
redis.call('HDEL', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[4], message)
return 1
