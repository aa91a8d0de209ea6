-- What the scripts of the queue share: it comes before each of them.
-- KEYS[1]  the lock
-- KEYS[2]  its queue: who waits to hold it alone, by the order in which they are served (microseconds, about when they
--          came)
-- KEYS[3]  until when each of those who wait counts, microseconds of this server's clock
-- KEYS[4]  the readers that wait, by the same order
local lock, queue, expiry, reader_queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local itself -- a member that need not be told: it comes again by itself

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Tells a member of a queue that it may be its turn. Returns whether anybody hears it; if not, the member is dead.
local function tell(member, from)
  if member == itself then
    return true
  end
  local kind, life, heard = string.sub(member, 1, 1), 250000, 1
  if kind == 'p' or kind == 'q' then
    life = 1000000 -- nobody can tell it: it comes by itself
  else
    heard = redis.pcall('PUBLISH', 'redlock:' .. string.sub(member, 2), (kind == 't' and 'f' or kind) .. lock)
  end
  if heard == 0 then
    redis.call('ZREM', from, member)
    redis.call('ZREM', expiry, member)
    return false
  end
  -- It comes soon, or does not count any more; also where we may not PUBLISH.
  redis.pcall('ZADD', expiry, 'LT', string.format('%.0f', now() + life), member)
  return true
end

-- Tells the readers that came before this order, or all. Returns one that hears it; nil if there is none.
local function tell_readers(order)
  local members = redis.pcall('ZRANGEBYSCORE', reader_queue, '-inf', order and '(' .. order or '+inf')
  local heard
  for i = 1, #members do -- an error has none
    if tell(members[i], reader_queue) then
      heard = members[i]
    end
  end
  return heard
end

-- Tells the first in the queue that the lock is free, or the readers that came before, and returns it; nil if nobody
-- waits.
local function tell_first()
  local first = redis.pcall('ZRANGE', queue, 0, 0, 'WITHSCORES') -- nobody where we may not ask
  while first[1] do
    local reader = tell_readers(first[2])
    if reader or tell(first[1], queue) then
      return reader or first[1]
    end
    first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  end
  return tell_readers()
end

-- Removes those who do not count any more.
local function forget_silent(time)
  local silent = redis.call('ZRANGEBYSCORE', expiry, '-inf', string.format('%.0f', time), 'LIMIT', 0, 100)
  if #silent > 0 then
    redis.call('ZREM', queue, unpack(silent))
    redis.call('ZREM', reader_queue, unpack(silent))
    redis.call('ZREM', expiry, unpack(silent))
  end
end

-- A member's order: where it stands already, else this, which unless it is exact must lie within the last 20 ms, so that
-- nobody comes first by a clock that is wrong.
local function place(member, where, order, exact, time)
  if exact == '1' then
    return order
  end
  local stands = redis.call('ZSCORE', where, member)
  if stands then
    return string.format('%.0f', stands)
  end
  return string.format('%.0f', math.max(time - 20000, math.min(time, tonumber(order))))
end

-- Joins a queue, or stays in it.
local function stand(member, where, order, life, time)
  redis.call('ZADD', where, order, member)
  redis.call('ZADD', expiry, string.format('%.0f', time + life * 1000), member)
  redis.call('PEXPIRE', where, 2 * life)
  redis.call('PEXPIRE', expiry, 2 * life)
end

-- What who is refused is told of a lock, who then stands in a queue: the holder, false if there is none; how many stand
-- before us; our order; the time. If we are the first, the holder hears that somebody waits.
local function refusal(holder, rank, order, time)
  local left = holder and -1 or -2
  if rank == 0 and holder then
    left = redis.call('PTTL', lock)
    if holder ~= '' then
      redis.pcall('PUBLISH', 'redlock:' .. string.sub(holder, 1, 8), 'w' .. lock)
    end
  end
  return {holder or '', left, rank, order, string.format('%.0f', time)}
end

