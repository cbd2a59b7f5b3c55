-- Changes one part of what an operator says of a tool (see common/domain/tool_status.py), and writes that into the audit.
-- KEYS 1 versions  2 states  3 registry version  4 changes  5 audit
-- ARGV 1 tool id  2 switch, draining or retiring  3 its value as JSON: "on", "off", true, false  4 who says it  5 channel
--      6 kind of the event
-- Returns {1, state as it was (JSON; false: nobody has said anything), state as it is (JSON or false)},
-- or {0, false, false}: there is no such tool.
-- Race: of two operators who change different parts at once both are heard, since the other part is kept as it is here.
-- The definition's version is not touched, so no session is closed by it. What is so already is neither counted nor
-- audited. A record that is no JSON object kept the tool shut, since nobody could read it: here it is replaced.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {0, false, false} end
local before = redis.call('HGET', KEYS[2], ARGV[1])
local read, state = pcall(cjson.decode, before or '{}')
local sound = read and type(state) == 'table'
if not sound then state = {} end
if state.draining == nil then state.draining = false end
if state.retiring == nil then state.retiring = false end
local value = cjson.decode(ARGV[3])
if sound and state[ARGV[2]] == value then return {1, before, before} end
if state.switch == nil then state.switch = cjson.null end
local t = redis.call('TIME')
state[ARGV[2]], state.since, state.by = value, t[1] * 1000 + math.floor(t[2] / 1000), ARGV[4]
local after = cjson.encode(state)
local version = redis.call('INCR', KEYS[3])
redis.call('HSET', KEYS[2], ARGV[1], after)
redis.call('ZADD', KEYS[4], version, ARGV[1])
redis.call('PUBLISH', ARGV[5], version)
redis.call('XADD', KEYS[5], '*', 'kind', ARGV[6], 'actor', ARGV[4], 'tool', ARGV[1])
return {1, before, after}
