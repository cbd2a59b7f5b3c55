-- Puts a message without a head back in front of its queue with one, so that it is taken up under the rules of all.
-- KEYS 1 unacked hash of the node that holds it  2 queue
-- ARGV 1 delivery tag  2 the message with its head, as admit.lua takes it  3 wake channel
-- Returns 1, or 0 if it is not recorded any more.
-- Race: whoever sends this twice finds the record gone: no second copy is made.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local message = string.format('{"enqueued_at":%.0f,"circuit":0,', now) .. string.sub(ARGV[2], 2)
if redis.call('RPUSH', KEYS[2], message) == 1 then redis.call('PUBLISH', ARGV[3], KEYS[2]) end
return 1
