-- Keeps open connections known for another lease.
-- KEYS the connections
-- ARGV 1 the lease in ms
-- Returns the numbers (from 0) of those that are not there any more.
local gone = {}
for i, key in ipairs(KEYS) do
  if redis.call('PEXPIRE', key, ARGV[1]) == 0 then gone[#gone + 1] = i - 1 end
end
return gone
