-- Decides whether a tool's circuit lets one call through; a half-open one gives it a permit.
-- uses: circuit
-- KEYS 1 circuit of the tool  2 its permits
-- ARGV 1 invocation id  2 most permits at a time  3 Redis ms at which the call's permit ends
-- Returns one of
--   {'admitted', generation, 1 if a permit was taken else 0, transition or nil}
--   {'open', generation, ms until it is tried again, -1 if that is for an operator to say}
--   {'probes_taken', generation, ms until the first permit ends at the latest}
-- A transition is {state before, state after, reason, generation}. Whatever is refused has changed nothing.
-- Race: processes that find the open time over together; one of them makes the circuit half-open, and no more of them
-- than there are permits get one. A permit whose holder died counts until its end, and no longer.
-- The pure twin is common/domain/circuit.py.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses
local verdict, generation, detail, transition = circuit_admit(KEYS[1], KEYS[2], now, ARGV[1], ARGV[2], ARGV[3])
return {verdict, generation, detail, transition}
