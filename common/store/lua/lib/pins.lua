-- The pins of a tool (common/domain/pins.py). Uses of the script around it: none.

-- Writes what was decided on pins that were read at a version, if they are still at it. The arguments from place `at` on:
-- the version; the places that are not approved (JSON, '' for none); how many fields are set, then each with its value; how many are removed, then each; then events of the audit, each behind how many parts it has.
-- Returns whether they were written; nothing is written otherwise.
local function pins_written(tool, pins, unapproved, audit, at)
  if (redis.call('HGET', pins, 'version') or '0') ~= ARGV[at] then return false end
  local sets = tonumber(ARGV[at + 2])
  local removed_at = at + 3 + 2 * sets
  local removed = tonumber(ARGV[removed_at])
  if sets + removed == 0 then return true end
  redis.call('HINCRBY', pins, 'version', 1)
  for i = at + 3, removed_at - 2, 2 do redis.call('HSET', pins, ARGV[i], ARGV[i + 1]) end
  for i = removed_at + 1, removed_at + removed do redis.call('HDEL', pins, ARGV[i]) end
  if ARGV[at + 1] == '' then
    redis.call('HDEL', unapproved, tool)
  else
    redis.call('HSET', unapproved, tool, ARGV[at + 1])
  end
  local i = removed_at + removed + 1
  while ARGV[i] do
    local parts = tonumber(ARGV[i])
    redis.call('XADD', audit, '*', unpack(ARGV, i + 1, i + parts))
    i = i + parts + 1
  end
  return true
end
