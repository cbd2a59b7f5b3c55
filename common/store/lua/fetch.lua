-- Takes messages off lists, records them as begun by this node, and decides whose session each is for, in one step.
-- uses: heads, owners, lists, rates, pool, audit, taken, permits
-- KEYS 1 unacked hash of the node  2.. lists, in the order in which they are served: queues of tools, and the node's
--      own direct lists
-- ARGV 1 most messages  2 first delivery tag  3 largest message in bytes  4 bytes kept of a larger one
--      5 what all keys begin with  6 the node
--      7.. for each of KEYS 2.. its tool's queue and the most calls in flight of that tool (0: any number)
-- Returns {status, taken, more, unusable, dropped}
--   status    'taken', or 'lapsed': the node's lease has ended, or it was declared dead; nothing was taken
--   taken     flat: index of the list among KEYS 2.., delivery tag, message, verdict, fencing token
--             verdicts: 'held' the session is the node's; 'claimed' it is so from now on, and the call is noted as
--             unsent; 'tool_limit', 'tenant_limit' a cap keeps it from being created; 'headless' the message has no
--             head, and nothing was decided
--   more      indices of the lists that may hold more, in the order in which they are to be served next
--             (every other one was seen empty, or holds back what is beyond the tool's calls in flight)
--   unusable  indices of those that are no lists, which must not cost the others what was taken from them
--   dropped   ids of messages whose call was begun before (the ledger): acknowledged, not begun again
-- What is dropped or passed on takes Redis' time as well: after 100 of those the node is asked to come again.
-- Race: a worker killed between popping and recording would lose what it popped; there is no between here. Nor is there
-- one between looking for an owner and becoming it.
-- One message a list and a pass, so that a busy one does not hold up the others; many at once from the last one left.
-- A message above the bound never leaves Redis whole, or it would stop one worker after the other: its beginning and
-- its end take its place, behind a line with its size and SHA-1 that no message can begin with (byte 255).
local prefix, me = ARGV[5], ARGV[6]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses

-- One that was declared dead is listed without a lease.
if not living(me) then return {'lapsed', {}, {}, {}, {}} end

local dropped, largest = {}, tonumber(ARGV[3])

-- What becomes of one message from list i of a queue.
local function decide(i, queue, message)
  if #message > largest then
    record(i, cut(message, tonumber(ARGV[4])), 'headless', '0')
    return
  end
  local head, first, last = head_of(message)
  if not head then
    record(i, message, 'headless', '0')
    return
  end
  local chosen, call = head.session, told_of(message, last)
  if chosen == '*' then
    if not has_pool(whole(head)) then
      record(i, message, 'headless', '0')
      return
    end
    chosen = of_pool(head)
    head.session = chosen
    message = with_head(message, first, last, head)
    redis.call('HINCRBY', prefix .. 'session-calls:' .. head.tool, chosen, 1)
  end
  local owner, token = owner_of(head.tool, chosen)
  if owner and owner ~= me and not gone(owner) then return pass_on(owner, queue, message) end
  local id = decoded(head.id)
  if not enter(head, id, string.format('%s %d', me, tag)) then
    leave_pool(queue, chosen)
    -- Of one that runs elsewhere the permit is still needed.
    if head.permits ~= '0' and redis.call('EXISTS', 'celery-task-meta-' .. id) == 1 then permits_back(head.permits, id) end
    dropped[#dropped + 1], passed = id, passed + 1
    return
  end
  local verdict = 'held'
  if owner ~= me then
    verdict = not owner and cap_reached(whole(head)) or 'claimed'
    token = verdict == 'claimed' and claim_session(head.tool, chosen, me) or '0'
  end
  record(i, message, verdict, token)
  if call then begun[#begun + 1] = {head, call} end
end

local live, more, unusable = {}, {}, {}
for i = 2, #KEYS do live[#live + 1] = i end
while left > 0 and #live > 0 and passed < 100 do
  local served, unreached, count = {}, {}, #live == 1 and left or 1
  for _, i in ipairs(live) do
    local queue, most = ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i])
    local free = room(queue, most)
    local wanted = math.min(count, free)
    local messages = wanted > 0 and redis.pcall('RPOP', KEYS[i], wanted)
    if left == 0 then unreached[#unreached + 1] = i
    elseif wanted == 0 then
      -- Whoever gives a place back calls out. A full Redis may refuse the note: the other lists are served all the same.
      redis.pcall('SET', prefix .. 'held-back:' .. queue, '1', 'EX', 60)
    elseif messages and messages.err then
      if not string.find(messages.err, 'WRONGTYPE', 1, true) then
        write_taken()
        return messages
      end
      unusable[#unusable + 1] = i - 1
    elseif messages then
      for _, message in ipairs(messages) do decide(i, queue, message) end
      counts[queue] = (counts[queue] or 0) + #messages
      if #messages == wanted then served[#served + 1] = i end
    end
  end
  for _, i in ipairs(served) do unreached[#unreached + 1] = i end
  live = unreached
end
write_taken()
for _, i in ipairs(live) do more[#more + 1] = i - 1 end
return {'taken', taken, more, unusable, dropped}
