-- How fast a queue is drained, and how old its oldest message is. Uses of the script around it: prefix, now.

-- What is taken from a queue is counted in spans of ten seconds: number of the span -> messages. Unused, it expires.
local function measure_drain(queue, messages)
  local key, span = prefix .. 'drain:' .. queue, math.floor(now / 10000)
  if redis.call('HINCRBY', key, span, messages) == messages then
    redis.call('HSETNX', key, 'since', now)
    redis.call('HDEL', key, span - 2)
    redis.call('EXPIRE', key, 60)
  end
end

-- Messages a second, over the last ten: this span, and of the last one what lies within them. What nobody has measured
-- for ten seconds yet is scaled up to them.
local function drained(key)
  local span = math.floor(now / 10000)
  local this, last, since = unpack(redis.call('HMGET', key, span, span - 1, 'since'))
  if not since then return 0 end
  local seen = math.min(10000, math.max(now - since, 1000))
  return (tonumber(this or 0) + tonumber(last or 0) * (1 - now % 10000 / 10000)) * 1000 / seen
end

-- The oldest message may be megabytes long, and each look copies it: what was seen is kept for a second, in which the
-- oldest can only become younger. So it is looked at again before anybody is refused for it.
-- A message of a stock producer has no stamp: its age is not known (-1), and does not count.
local function age_of_oldest(list, seen_key, bound)
  local stamp, seen = string.match(redis.call('GET', seen_key) or '', '^(%S+) (%d+)$')
  local age = tonumber(stamp) and now - stamp or -1
  if not stamp or (age > bound and now - seen > 100) then
    local message = redis.call('LINDEX', list, -1)
    if not message then return -1 end
    stamp = string.match(message, '^{"enqueued_at":(%d+)') or 'none'
    redis.call('SET', seen_key, string.format('%s %.0f', stamp, now), 'PX', 1000)
    age = tonumber(stamp) and now - stamp or -1
  end
  return age
end
