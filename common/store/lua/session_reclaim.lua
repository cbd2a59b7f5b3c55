-- Makes a node the owner of a session again that it held: it was about to free it, or Redis lost its data.
-- uses: heads, owners
-- KEYS 1 sessions of the tool
-- ARGV 1 what all keys begin with  2 node  3 tool, encoded  4 session
-- Returns the fencing token it is held under, or false if a living other owns it, or the node itself is dead.
local prefix, node = ARGV[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses
if not living(node) or redis.call('EXISTS', prefix .. 'fenced:' .. encoded(node)) == 1 then return false end
local owner, token = owner_of(ARGV[3], ARGV[4])
if owner == node then return token end
if owner and not gone(owner) then return false end
return claim_session(ARGV[3], ARGV[4], node)
