-- Makes a node the owner of a session again that it held: it was about to free it, or Redis lost its data.
-- uses: heads, owners
-- KEYS 1 sessions of the tool
-- ARGV 1 what all keys begin with  2 node  3 tool, encoded  4 session
--      5 most sessions of the tool  6 most sessions of the tenant (0 or left out: any number)
-- Returns the fencing token it is held under, or false if a living other owns it, or the node itself is dead;
-- 'tool_limit', 'tenant_limit': it is nobody's, and a cap keeps it from being created.
-- Race: between a release and this another may have created the last session that may be; what is decided on and what
-- is counted is one script, as in fetch.lua.
local prefix, node = ARGV[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses
if not living(node) or redis.call('EXISTS', prefix .. 'fenced:' .. encoded(node)) == 1 then return false end
local owner, token = owner_of(ARGV[3], ARGV[4])
if owner == node then return token end
if owner and not gone(owner) then return false end
-- A Redis without memory refuses a script whose first write adds something, and this one must be heard.
redis.call('SREM', prefix .. 'node-sessions:' .. encoded(node), '')
local asked = {tool = ARGV[3], session = ARGV[4], max_sessions = ARGV[5] or '0', tenant_max = ARGV[6] or '0'}
return not owner and cap_reached(asked) or claim_session(ARGV[3], ARGV[4], node)
