-- Moves a message that nobody can run from a node's record to the dead letters: kept and acknowledged in one step.
-- KEYS 1 dead letters (stream)  2 unacked hash of the node
-- ARGV 1 delivery tag ('' if the message is not recorded any more)  2 the message, if it is not (else '')
--      3 most letters  4 most bytes kept of a message  5 .. field and value of what the worker knows of it
-- Returns the id of the letter, or false if the message is not recorded: it was moved before.
-- Race: the worker sends this again when the answer was lost; the tag then is gone, and no second letter is made.
-- Of a message above the bound the first and the last bytes are kept, for its headers stand behind its body.
-- One that fetch.lua found too large for any worker was cut there; its size and digest stand before it.
local message = ARGV[2]
if ARGV[1] ~= '' then
  message = redis.call('HGET', KEYS[2], ARGV[1])
  if not message then return false end
  redis.call('HDEL', KEYS[2], ARGV[1])
end
local kept, size, digest = message, #message, nil
local line, cut_size, cut_digest = string.match(string.sub(message, 1, 100), '^(\255oversized (%d+) (%x+)\n)')
if line then
  kept, size, digest = string.sub(message, #line + 1), cut_size, cut_digest
else
  digest = redis.sha1hex(message)
end
local most = tonumber(ARGV[4])
if #kept > most then
  local half = math.floor(most / 2)
  kept = string.sub(kept, 1, half) .. string.sub(kept, -half)
end
return redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], '*', 'size', size, 'sha1', digest, 'message', kept,
  unpack(ARGV, 5))
