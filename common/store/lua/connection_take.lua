-- Messages of the client of an open connection, in order, for the web process that holds it.
-- KEYS 1 the connection's inbox  2 bytes in the inbox, and number of its last message
-- ARGV 1 most messages to return  2 number of the last message that was heard: up to it they are done with
-- Returns the messages, each behind its number. They stay until the next one asks: whoever does not get this answer asks
-- again.
-- A count that got lost is not begun here, for it would have no lifetime.
local freed = 0
while true do
  local first = redis.call('LINDEX', KEYS[1], 0)
  local number, behind = string.match(first or '', '^(%d+)()\n')
  if not number or tonumber(number) > tonumber(ARGV[2]) then break end
  redis.call('LPOP', KEYS[1])
  freed = freed + #first - behind
end
if freed > 0 and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HINCRBY', KEYS[2], 'bytes', -freed) end
return redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)
