-- What the scripts share that number acquisitions: it comes before each of them. Numbers are texts of digits, and below
-- 2^53, so that Lua counts them exactly.

local KEPT = 86400000 -- milliseconds for which the last number is kept, and as long as it is ahead of the clock besides
local APART = 60000 -- milliseconds that clocks may be apart

-- Remembers a number.
local function keep_number(fence, number)
  local ahead = math.max(APART, math.ceil(number / 1000) - redis.call('TIME')[1] * 1000)
  redis.call('SET', fence, string.format('%.0f', number), 'PX', string.format('%.0f', KEPT + ahead))
end

-- The least number that may be given out: `floor`; '0': this server's time. nil and what to reply if the floor is not about
-- that time: one of the two clocks is wrong.
local function least_number(floor)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  if floor == '0' then
    return string.format('%.0f', now)
  end
  if math.abs(now - floor) > APART * 1000 then
    return nil, redis.status_reply('CLOCK ' .. string.format('%.0f', now))
  end
  return floor
end

-- Gives out `least`, or more if that was given out before.
local function next_number(fence, least)
  local last = redis.call('SET', fence, least, 'PX', KEPT + APART, 'GET')
  last = last and tonumber(last)
  if not last or last < tonumber(least) then
    return least
  end
  if last + 1 >= 9007199254740991 then
    redis.call('SET', fence, string.format('%.0f', last), 'PX', KEPT)
    return nil, redis.error_reply('ERR the fence has reached its end')
  end
  keep_number(fence, last + 1)
  return string.format('%.0f', last + 1)
end

-- The last number, 0 if there is none.
local function last_number(fence)
  return tonumber(redis.call('GET', fence) or 0) or 0
end
