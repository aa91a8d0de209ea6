-- Takes a read lock unless somebody holds the lock alone, or waits for that before us in its queue; else joins the
-- readers' queue, or stays in it.
-- KEYS     as in queue.lua; KEYS[5]: the lock's last number, where that is asked for (fence.lua)
-- ARGV     as in take.lua; a token of its own for each reader; in no queue, order '' lets everybody there go first
-- Replies  as take.lua does, with the last number, 0 if there is none, where that is asked for; those who stand before a
--          reader are those who wait to hold the lock alone.
local member = ARGV[3]
local first = redis.pcall('ZRANGE', queue, 0, 0, 'WITHSCORES') -- nobody where we may not ask
local time = redis.call('TIME')
local ms = milliseconds(time)
time = time[1] * 1000000 + time[2]
local order = ARGV[4]

-- Whether somebody goes first.
local function passed()
  if not first[1] or order == '' then
    return first[1]
  end
  return tonumber(first[2]) < tonumber(order)
end

if first[1] and order ~= '' then
  order = place(member, reader_queue, order, ARGV[5], time)
end
if passed() then
  forget_silent(time)
  if ARGV[5] == '1' and redis.call('EXISTS', lock) == 0 then -- it may be dead, or not have heard of it
    tell_first()
  end
  first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
end
if not passed() then
  local added = add_reader(lock, ARGV[1], ms + ARGV[2], ms, 'GT')
  if added == true then
    if member ~= '' then
      redis.call('ZREM', reader_queue, member)
      redis.call('ZREM', expiry, member)
      if redis.call('EXISTS', queue, reader_queue) == 0 then
        redis.call('DEL', expiry) -- of those who have been served
      end
    end
    if KEYS[5] then
      return {string.format('%.0f', last_number(KEYS[5])), first[1] and 1 or 0}
    end
    return first[1] and 2 or 1
  end
  if added then
    return added
  end
end
local holder = redis.pcall('GET', lock)
if type(holder) == 'table' then
  holder = '' -- readers, or none of our locks
end
if member == '' then
  return {holder or '', holder and -1 or -2, -1, '', ''}
end
order = place(member, reader_queue, order, ARGV[5], time)
stand(member, reader_queue, order, ARGV[6], time)
return refusal(holder, redis.call('ZCOUNT', queue, '-inf', '(' .. order), order, time)
