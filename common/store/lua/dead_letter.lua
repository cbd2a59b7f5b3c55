-- Moves a message that nobody can run from a node's record to the dead letters: kept and acknowledged in one step.
-- uses: heads, lists, permits
-- KEYS 1 dead letters (stream)  2 unacked hash of the node
-- ARGV 1 what all keys begin with  2 node  3 delivery tag ('' if the message is not recorded any more)
--      4 the message, if it is not (else '')  5 most letters  6 most bytes kept of a message
--      7 what is kept of it, sealed ('': the message itself)  8 .. field and value of what the worker knows of it
-- Returns the id of the letter, or false if the message is not recorded: it was moved before.
-- Race: the worker sends this again when the answer was lost; the tag then is gone, and no second letter is made.
-- Of a message above the bound the first and the last bytes are kept, for its headers stand behind its body.
-- One that fetch.lua found too large for any worker was cut there; its size and digest stand before it.
-- A head that Redis can read was counted when the message was taken, whatever stands behind it.
local prefix, node, tag, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
--@uses
if tag ~= '' then
  message = redis.call('HGET', KEYS[2], tag)
  if not message then return false end
  redis.call('HDEL', KEYS[2], tag)
  local head = head_of(message)
  if head then
    local id = decoded(head.id)
    let_go(head.queue, id)
    leave_pool(head.queue, head.session)
    permits_back(head.permits, id)
    redis.call('HDEL', prefix .. 'unsent:' .. encoded(node), tag)
    redis.call('ZREM', prefix .. 'circuit-permits:' .. head.tool, id)
  end
end
local kept, size, digest = message, #message, nil
local line, cut_size, cut_digest = string.match(string.sub(message, 1, 100), '^(\255oversized (%d+) (%x+)\n)')
if line then
  kept, size, digest = string.sub(message, #line + 1), cut_size, cut_digest
else
  digest = redis.sha1hex(message)
end
local most = tonumber(ARGV[6])
if #kept > most then
  local half = math.floor(most / 2)
  kept = string.sub(kept, 1, half) .. string.sub(kept, -half)
end
if ARGV[7] ~= '' then kept = ARGV[7] end
return redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[5], '*', 'size', size, 'sha1', digest, 'message', kept,
  unpack(ARGV, 8))
