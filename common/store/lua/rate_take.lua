-- Takes one request from all of its buckets, or from none: for requests that queue no call.
-- uses: buckets
-- ARGV for each rate: its bucket, requests a minute, burst
-- Returns {0, 0}, or {number of the bucket to be waited for longest, microseconds to wait}.
local t = redis.call('TIME')
local now_us = t[1] * 1000000 + t[2]
--@uses
local wait, which, levels = buckets_ask(1)
if wait > 0 then return {which, wait} end
buckets_fill(1, levels)
return {0, 0}
