-- Declares that a node has begun calls: Redis was restarted, and may give them out again.
-- KEYS 1.. began of each call
-- ARGV 1 node  2 ms for which it is remembered
-- Returns how many were declared.
-- Race: they may be in their queues again; nobody fetches before each worker had the time to declare.
for _, key in ipairs(KEYS) do
  -- A Redis without memory refuses a script whose first write adds something, and this one must be heard.
  redis.call('DEL', key)
  redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
end
return #KEYS
