-- Sends a frame of a running call to whoever waits for it, and logs it, so that its client can come back to it.
-- KEYS 1 the log  2 who hands the call's stream out
-- ARGV 1 id of the call  2 the frame  3 reply channel of whoever began the call  4 when the log ends (Redis ms), 0 to
--      send the frame without a place: it stands in the log already  5 most entries  6 most bytes of all frames
-- Returns nothing.
-- An entry's id is 0-<place>: places count from 1, whatever workers hold the call one after the other, and a place
-- that is not there any more is lost. 's' is the size of all frames up to this one. A frame that alone is too large
-- is logged empty, so its place says that it is lost; the log is never without its last entry.
local to = string.match(redis.call('GET', KEYS[2]) or '', '^(%S+)') or ARGV[3]
if ARGV[4] == '0' then
  redis.call('PUBLISH', to, ARGV[1] .. ' ' .. ARGV[2])
  return
end
local most = tonumber(ARGV[6])
local kept = #ARGV[2] <= most and ARGV[2] or ''
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local size = #kept + (last and tonumber(last[2][4]) or 0)
local place = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[5], '0-*', 'f', kept, 's', size)
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
while size - tonumber(first[2][4]) + #first[2][2] > most do
  redis.call('XDEL', KEYS[1], first[1])
  first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
end
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
redis.call('PUBLISH', to, ARGV[1] .. ' ' .. string.sub(place, 3) .. ' ' .. ARGV[2])
