-- Says several things on one channel, in order.
-- KEYS 1 the channel
-- ARGV 1.. what is said
-- Returns how many there were.
-- Race: none; who subscribes meanwhile hears all of it or nothing.
for _, word in ipairs(ARGV) do redis.call('PUBLISH', KEYS[1], word) end
return #ARGV
