-- Puts a message on a tool's queue and wakes its workers.
-- KEYS 1 queue
-- ARGV 1 message  2 wake channel
-- Returns {length, Redis ms}.
-- Workers are woken only when the queue was empty: where it was not, a worker with a free slot is emptying it
-- already, and one without a free slot looks again as soon as it has one.
local length = redis.call('LPUSH', KEYS[1], ARGV[1])
if length == 1 then redis.call('PUBLISH', ARGV[2], KEYS[1]) end
local t = redis.call('TIME')
return {length, t[1] * 1000 + math.floor(t[2] / 1000)}
