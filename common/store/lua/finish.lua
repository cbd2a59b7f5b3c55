-- Gives calls of one node their ends: result, reply, and what they held is given back.
-- The record in the unacked hash is the right to do so; whoever finds it gone is too late.
-- uses: heads, lists, permits
-- KEYS 1 unacked hash of the node
-- ARGV 1 what all keys begin with  2 the node  3 life of the results in ms  4 queues of tools with a bound on their
--      calls in flight, each between spaces  5.. for each call ten: delivery tag, id, queue, session, reply channel ('' if
--      only the result key is watched), result record, reply frame, 1 if its session had still to start when it ended,
--      what the journal is told: kind, call and end with spaces between ('' for nothing), what its head says of permits
-- Returns {refused, circuits}: numbers (from 1) of the calls whose end came too late; queues of tools whose circuit
-- wants to know of every end.
-- Race: a frozen worker wakes and answers a call that was declared lost meanwhile: its record is gone, and it is
-- refused. A worker that sends this twice, since the first answer was lost, finds its own result, whatever became of the
-- node since: it is told as the first time, and nothing is written.
-- A Redis that lost its data has neither record nor tombstone: then the end is taken, unless there is a result.
local prefix, node = ARGV[1], ARGV[2]
--@uses

local fenced = nil
-- Of an end whose record is gone: 'written' if it is this very one that was, 'late' if another end counts.
local function too_late(id, result)
  local stored = redis.call('GET', 'celery-task-meta-' .. id)
  if stored == result then return 'written' end
  if fenced == nil then fenced = redis.call('EXISTS', prefix .. 'fenced:' .. encoded(node)) == 1 end
  return (fenced or stored) and 'late'
end

local refused, circuits, ended = {}, {}, {}
for i = 5, #ARGV, 10 do
  local tag, id, queue, session, reply = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local recorded = redis.call('HDEL', KEYS[1], tag) == 1
  local before = not recorded and too_late(id, ARGV[i + 5])
  if before == 'late' then
    refused[#refused + 1] = (i - 5) / 10 + 1
  elseif before == 'written' then
    ended[queue] = ended[queue] or {}
  else
    if not ended[queue] then ended[queue] = {} end
    if recorded then
      ended[queue][#ended[queue] + 1] = id
      leave_pool(queue, session)
    end
    permits_back(ARGV[i + 9], id)
    if ARGV[i + 7] == '1' then redis.call('HDEL', prefix .. 'unsent:' .. encoded(node), tag) end
    redis.call('SET', 'celery-task-meta-' .. id, ARGV[i + 5], 'PX', ARGV[3])
    if reply ~= '' then
      redis.call('PUBLISH', reply, ARGV[i + 6])
    else
      redis.call('PUBLISH', 'celery-task-meta-' .. id, ARGV[i + 5])
    end
    if ARGV[i + 8] ~= '' then
      local kind, call, how = string.match(ARGV[i + 8], '^(%S+) (%S*) (%S*)$')
      redis.call('XADD', prefix .. 'audit', '*', 'kind', kind, 'invocation', id, 'tool', decoded(string.sub(queue, 6)),
        'session', session, 'node', node, 'call', call, 'end', how)
    end
  end
end
for queue, ids in pairs(ended) do
  if #ids > 0 then redis.call('HDEL', prefix .. 'calls:' .. queue, unpack(ids)) end
  if string.find(ARGV[4], ' ' .. queue .. ' ', 1, true) then call_in(queue) end
  if redis.call('HEXISTS', prefix .. 'circuit:' .. string.sub(queue, 6), 'state') == 1 then
    circuits[#circuits + 1] = queue
  end
end
return {refused, circuits}
