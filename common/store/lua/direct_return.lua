-- Moves what waits for a node that is leaving back to the tool's queue, for others to take.
-- uses: heads, lists
-- KEYS 1 the direct list
-- ARGV 1 what all keys begin with  2 node  3 queue of the tool  4 most messages
-- Returns how many were moved.
local prefix = ARGV[1]
local now = 0
--@uses
return return_direct(ARGV[2], ARGV[3], tonumber(ARGV[4]))
