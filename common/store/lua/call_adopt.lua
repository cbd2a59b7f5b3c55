-- Puts a message without a head back in front of its queue with one, or says why its call may not run now.
-- With a head it is taken up under the rules of all.
-- uses: heads, owners, lists, circuit, permits, buckets, audit
-- KEYS 1 unacked hash of the node that holds it  2 queue
-- ARGV 1 delivery tag  2 the message with its head, as admit.lua takes it  3 what all keys begin with
--      4 1 if a session may be created, 0 if the tool is being drained  5 most calls at a time that try a half-open
--      circuit  6 most events in the journal (0: any number)  7.. rates, as admit.lua has them from 10 on
-- Returns {'adopted'}, {'gone'} if it is not recorded any more, or a refusal as admit.lua has it: {'journal_full',
-- Redis ms}, {'calls_at_bound', ..}, {'rate', ..}, {'draining', Redis ms}, {'open', Redis ms, ms}, {'probes_taken',
-- Redis ms, ms}. What is refused stays recorded: it has to be answered.
-- Race: whoever sends this twice finds the record gone: no second copy is made.
local prefix = ARGV[3]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local now_us = ARGV[7] and t[1] * 1000000 + t[2]
--@uses
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'gone'} end
if journal_full(ARGV[6]) then return {'journal_full', now} end
local head, _, last = head_unstamped(ARGV[2])
local counted = head.permits ~= '0'
local whose = counted and permits_full(head.permits, decoded(head.id))
if whose then return {'calls_at_bound', now, whose} end
local levels
if ARGV[7] then
  local wait, which, found = buckets_ask(7)
  if wait > 0 then return {'rate', now, which, wait} end
  levels = found
end
if ARGV[4] == '0' then
  local owner = head.session ~= '*' and owner_of(head.tool, head.session)
  if not owner or gone(owner) then return {'draining', now} end
end
local circuit_key, permits_key = prefix .. 'circuit:' .. head.tool, prefix .. 'circuit-permits:' .. head.tool
local verdict, generation, wait, change =
  circuit_admit(circuit_key, permits_key, now, decoded(head.id), ARGV[5], head.deadline + 12000)
if verdict ~= 'admitted' then return {verdict, now, wait} end
-- First of all, as in admit.lua: where the journal is refused, the call stays as it was.
circuit_told(head.tool, change)
local call = told_of(ARGV[2], last)
if call then tell('policy_decision', head, call, 'outcome', 'allow') end
if counted then permits_take(head.permits, decoded(head.id)) end
if levels then buckets_fill(7, levels) end
redis.call('HDEL', KEYS[1], ARGV[1])
put_back(KEYS[2], stamped(ARGV[2], now, generation))
return {'adopted'}
