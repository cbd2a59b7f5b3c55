-- Reads the beginnings of messages, without their arguments: what a list or the unacked hash of a node holds.
-- KEYS 1 list, or hash of delivery tag -> message
-- ARGV 1 where to go on: cursor of the hash, or place from the right end of the list (0: begin)  2 most messages
--      3 bytes of each
-- Returns {where to go on ('0': this was all), flat: delivery tag ('' in a list), beginning}, a list's oldest first.
local kind = redis.call('TYPE', KEYS[1]).ok
local found = {}
if kind == 'hash' then
  local step = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
  for i = 1, #step[2], 2 do
    found[#found + 1] = step[2][i]
    found[#found + 1] = string.sub(step[2][i + 1], 1, tonumber(ARGV[3]))
  end
  return {step[1], found}
end
if kind ~= 'list' then return {'0', found} end
local from, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local messages = redis.call('LRANGE', KEYS[1], -from - most, -from - 1)
for i = #messages, 1, -1 do
  found[#found + 1] = ''
  found[#found + 1] = string.sub(messages[i], 1, tonumber(ARGV[3]))
end
return {#messages < most and '0' or tostring(from + #messages), found}
