-- How fast a queue is drained, and how old its oldest message is. Uses of the script around it: prefix, now.

-- The rate at which a queue is drained, as an average in which older messages count the less (10 s: to a third): "rate
-- at start", times in ms. It began at 0, so who reads it divides by 1 - exp(-(at - start) / 10 s); unused, it expires.
local function measure_drain(queue, messages)
  local key = prefix .. 'drain:' .. queue
  local rate, at, start = string.match(redis.call('GET', key) or '', '^(%S+) (%d+) (%d+)$')
  rate = messages / 10 + (rate and tonumber(rate) * math.exp((tonumber(at) - now) / 10000) or 0)
  redis.call('SET', key, string.format('%.3f %.0f %.0f', rate, now, tonumber(start or now)), 'EX', 60)
end

-- Messages a second. What was measured fades: a queue that nobody serves any more has no rate. An average that began
-- a moment ago has not seen ten seconds yet, and is scaled up to them.
local function drained(key)
  local rate, at, start = string.match(redis.call('GET', key) or '', '^(%S+) (%d+) (%d+)$')
  if not rate then return 0 end
  local seen = 1 - math.exp(-math.max(at - start, 1000) / 10000)
  return rate * math.exp((at - now) / 10000) / seen
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
