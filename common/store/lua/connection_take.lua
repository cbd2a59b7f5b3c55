-- Messages of the client of an open connection, in order, for the web process that holds it.
-- KEYS 1 the connection's inbox  2 bytes in the inbox
-- ARGV 1 most messages to take
-- Returns the messages.
-- Race: a message that is posted meanwhile is counted before this or after it, never in between.
-- A count that got lost is not begun here, for it would have no lifetime.
local taken = redis.call('LPOP', KEYS[1], ARGV[1])
if not taken then return {} end
local bytes = 0
for _, message in ipairs(taken) do bytes = bytes + #message end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DECRBY', KEYS[2], bytes) end
return taken
