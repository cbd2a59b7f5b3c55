-- Reads how much a tool has to do, for a policy that asks for it.
-- KEYS 1 ledger of the tool's calls  2 queue of the tool  3 sessions of the tenant
-- ARGV none
-- Returns {calls that workers hold, calls that wait for any worker, tool sessions of the tenant}
return {redis.call('HLEN', KEYS[1]), redis.call('LLEN', KEYS[2]), redis.call('SCARD', KEYS[3])}
