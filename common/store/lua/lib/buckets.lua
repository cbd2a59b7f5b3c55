-- Rates (common/domain/limits.py). Uses of the script around it: now_us, ARGV.

-- Asks the buckets in ARGV from a place on, each its key, requests a minute and burst. Nothing is written.
-- Returns the microseconds to wait (0: one more request passes), the number of the bucket that is to be waited for
-- longest, and the levels with one more request.
local function buckets_ask(first)
  local names, levels, wait, which = {}, {}, 0, 0
  for i = first, #ARGV, 3 do names[#names + 1] = ARGV[i] end
  for n, kept in ipairs(redis.call('MGET', unpack(names))) do
    local rate, burst, level = tonumber(ARGV[first + 3 * n - 2]), tonumber(ARGV[first + 3 * n - 1]), 0
    if kept then
      local stood, at = string.match(kept, '^(%d+) (%d+)$')
      level = math.max(0, stood - math.max(0, now_us - at) * rate)
    end
    levels[n] = level + 60000000
    local longer = math.ceil((levels[n] - burst * 60000000) / rate)
    if longer > wait then wait, which = longer, n end
  end
  return wait, which, levels
end

-- Writes the levels. An empty bucket is as good as none, so each is forgotten a minute after it is empty.
local function buckets_fill(first, levels)
  for n, level in ipairs(levels) do
    local i = first + 3 * (n - 1)
    redis.call('SET', ARGV[i], string.format('%.0f %.0f', level, now_us), 'PX',
      string.format('%.0f', math.ceil(level / ARGV[i + 1] / 1000) + 60000))
  end
end
