-- Works off a part of what a node left that was declared dead: its direct lists, the calls it held, its sessions.
-- uses: heads, owners, lists, permits, audit
-- KEYS 1 nodes  2 tombstone of the node  3 unacked hash of the node  4 its unsent hash  5 its set of direct queues
--      6 its set of sessions  7 the journal
-- ARGV 1 what all keys begin with  2 node  3 most things to do in this step  4 most attempts of a call
--      5 life of a result in ms  6 what stands before the id in the record of a lost call  7 what stands behind it
--      8 the frame of a lost call without its id
-- Returns {done, returned, lost, freed, headless}: 1 if nothing is left (the node is off the list then), calls put
-- back, calls answered WORKER_LOST, sessions freed; flat tag, message of those without a head, which stay recorded.
-- One that has its end already (Redis was restarted, and remembers the record alone) only gives back what it held.
-- A call goes back if the backend has seen nothing of it, or if it has leave to run again. The others are answered here
-- and not by the sweeper, which may die as well.
local prefix, node, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
--@uses
local returned, lost, freed, headless = 0, 0, 0, {}
if redis.call('EXISTS', KEYS[2]) == 0 then return {0, 0, 0, 0, {}} end

local function answer_lost(head, id, call)
  local record = ARGV[6] .. cjson.encode(id) .. ARGV[7]
  redis.call('SET', 'celery-task-meta-' .. id, record, 'PX', ARGV[5])
  if head.reply ~= '' then
    redis.call('PUBLISH', head.reply, id .. ' ' .. ARGV[8])
  else
    redis.call('PUBLISH', 'celery-task-meta-' .. id, record)
  end
  redis.call('ZREM', prefix .. 'circuit-permits:' .. head.tool, id)
  permits_back(head.permits, id)
  tell('invocation_lost', head, call or '', 'session', head.session, 'node', node, 'attempt', head.attempt, 'outcome',
    'failure', 'error_code', 'WORKER_LOST', 'detail', id)
end

local function work_off(tag, message)
  local head, first, last = head_of(message)
  if not head then
    -- Not counted: the others must not wait until somebody has dealt with it.
    if #headless < 2 * ARGV[3] then
      headless[#headless + 1] = tag
      headless[#headless + 1] = message
    end
    return
  end
  left = left - 1
  local id, session = decoded(head.id), head.session
  local attempt = tonumber(whole(head).attempt) + 1
  local unsent = redis.call('HGET', KEYS[4], tag) == '1'
  redis.call('HDEL', KEYS[3], tag)
  let_go(head.queue, id)
  leave_pool(head.queue, session)
  if redis.call('EXISTS', 'celery-task-meta-' .. id) == 1 then
    permits_back(head.permits, id)
    return
  end
  if (unsent or head.leave == 'safe') and attempt <= tonumber(ARGV[4]) then
    head.attempt = string.format('%d', attempt)
    redis.call('DEL', prefix .. 'began:' .. head.id)
    -- The pool chooses again.
    if string.sub(session, 1, 1) == '*' then head.session = '*' end
    put_back(head.queue, with_head(message, first, last, head))
    returned = returned + 1
  else
    answer_lost(head, id, told_of(message, last))
    lost = lost + 1
  end
end

for _, queue in ipairs(redis.call('SMEMBERS', KEYS[5])) do
  local moved = return_direct(node, queue, left)
  left, returned = left - moved, returned + moved
  if left == 0 then return {0, returned, lost, freed, headless} end
  redis.call('SREM', KEYS[5], queue)
end
-- The newest first, for each goes in front of those before it, in this step and in the next.
local tags = redis.call('HKEYS', KEYS[3])
for i, tag in ipairs(tags) do tags[i] = tonumber(tag) end
table.sort(tags)
for i = #tags, 1, -1 do
  if left == 0 then break end
  local tag = string.format('%.0f', tags[i])
  work_off(tag, redis.call('HGET', KEYS[3], tag))
end
if left > 0 then
  for _, member in ipairs(redis.call('SPOP', KEYS[6], left)) do
    local tool, session = string.match(member, '^([^|]*)|(.*)$')
    if free_session(tool, session, node) then freed = freed + 1 end
    left = left - 1
  end
end
local done = left > 0 and #headless == 0 and 1 or 0
if done == 1 then
  redis.call('ZREM', KEYS[1], node)
  redis.call('DEL', KEYS[4])
end
return {done, returned, lost, freed, headless}
