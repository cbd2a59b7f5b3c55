-- A message that the client of an open connection sent beside it, for the web process that holds the connection.
-- KEYS 1 the connection  2 its inbox  3 bytes in the inbox, and number of its last message
-- ARGV 1 whose it must be  2 the message  3 most messages in the inbox  4 life of the inbox in ms  5 the channel on
--      which its holder is called  6 the connection's name there  7 most bytes in the inbox
-- Returns 1; 0 if there is no such connection; -2 if it is somebody else's; -1 if the inbox is full.
-- An empty inbox takes any message. Its bytes are counted anew then, so a count that got lost is none for ever.
-- Messages are numbered by the time, so that numbers grow even if the last one got lost.
local owner = redis.call('GET', KEYS[1])
if not owner then return 0 end
if owner ~= ARGV[1] then return -2 end
local waiting = redis.call('LLEN', KEYS[2])
local before, last = unpack(redis.call('HMGET', KEYS[3], 'bytes', 'last'))
local bytes = #ARGV[2]
if waiting > 0 then
  bytes = bytes + tonumber(before or 0)
  if waiting >= tonumber(ARGV[3]) or bytes > tonumber(ARGV[7]) then return -1 end
end
local t = redis.call('TIME')
local number = string.format('%.0f', math.max(tonumber(last or 0) + 1, t[1] * 1000000 + t[2]))
redis.call('RPUSH', KEYS[2], number .. '\n' .. ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[3], 'bytes', bytes, 'last', number)
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
