-- A client's answer to a request of a backend, for the worker that holds the call.
-- KEYS 1 the request as the worker has recorded it  2 where the answer is laid
-- ARGV 1 who answers  2 the answer  3 its life in ms  4 id of the request
-- Returns 1, or 0 if nobody waits for it: the call has ended, or somebody else was asked. The worker takes the record
-- away when it has an answer; until then a second one takes the first one's place.
-- The worker is called; if it does not hear that, it looks by itself.
local record = redis.call('GET', KEYS[1])
local asked, channel = string.match(record or '', '^([^\n]*)\n(.*)$')
if asked ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('PUBLISH', channel, ARGV[4])
return 1
