-- Frees a session whose backend's link its owner has closed.
-- uses: heads, owners
-- KEYS 1 sessions of the tool
-- ARGV 1 what all keys begin with  2 node  3 tool, encoded  4 session  5 fencing token
-- Returns 1 if it was the owner's under this token, else 0.
-- Race: a session that another node owns by now is not taken from it, nor one that this node has claimed anew.
local prefix = ARGV[1]
local now = 0
--@uses
return free_session(ARGV[3], ARGV[4], ARGV[2], ARGV[5]) and 1 or 0
