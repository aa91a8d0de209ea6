-- Takes an exclusive lock unless somebody holds it or stands before us in its queue; else joins the queue, or stays in it.
-- KEYS     as in queue.lua; KEYS[5]: the lock's last number, where the acquisition is to be numbered (fence.lua)
-- ARGV[1]  the token
-- ARGV[2]  the ttl, milliseconds
-- ARGV[3]  who we are in the queue; '' to stand in none and let everybody there go first
-- ARGV[4]  our order
-- ARGV[5]  1: the order as it is; 0: within the last 20 ms
-- ARGV[6]  how long we count unless we come again, milliseconds
-- ARGV[7]  the least number, as in number.lua
-- Replies 1 when it took the lock, 2 when it did and others wait; {number, 0 or 1 if others wait} when it gave out another
-- number than the least. CLOCK as number.lua does. Else: the holder's token ('' if nobody holds it or the
-- key is no string); milliseconds until the key expires (-2: it is free; -1: never, or we are not the first in the
-- queue); how many stand before us (-1 in no queue); our order, this server's time in microseconds ('' in no queue).
local member = ARGV[3]

-- Of those in front two tell enough: whether somebody is before us, and whether others wait if we are first. Of the
-- readers one does.
local front, reader = redis.call('ZRANGE', queue, 0, 1), redis.call('ZRANGE', reader_queue, 0, 0, 'WITHSCORES')
local time, order, number
local holder = redis.pcall('GET', lock)
if type(holder) == 'table' then
  if not string.find(holder['err'], 'WRONGTYPE', 1, true) then
    return holder
  end
  holder = ''
end

-- Whether somebody goes first.
local function passed()
  if front[1] and front[1] ~= member then
    return true
  end
  if not reader[1] or member == '' then
    return reader[1]
  end
  time = time or now()
  order = order or place(member, queue, ARGV[4], ARGV[5], time)
  return tonumber(reader[2]) < tonumber(order)
end

if not holder then
  if passed() then
    time = time or now()
    forget_silent(time)
    if ARGV[5] == '1' then -- it may be dead, or not have heard of it
      tell_first()
    end
    front, reader = redis.call('ZRANGE', queue, 0, 1), redis.call('ZRANGE', reader_queue, 0, 0, 'WITHSCORES')
  end
  if not passed() then
    if KEYS[5] then
      local least, refused = least_number(ARGV[7])
      if least then
        number, refused = next_number(KEYS[5], least)
      end
      if not number then
        return refused
      end
      number = number ~= ARGV[7] and number
    end
    redis.call('SET', lock, ARGV[1], 'PX', ARGV[2])
    if front[2] or reader[1] then -- until when we counted stays in `expiry`, and is forgotten with the silent
      redis.call('ZREM', queue, member)
      return number and {number, 1} or 2
    end
    if front[1] then
      redis.call('DEL', queue, expiry)
    end
    return number and {number, 0} or 1
  end
end
if member == '' then
  return {holder or '', holder and -1 or -2, -1, '', ''}
end
time = time or now()
if ARGV[5] == '1' and holder and passed() then -- if nobody holds it, that was done above
  forget_silent(time)
end
order = order or place(member, queue, ARGV[4], ARGV[5], time)
stand(member, queue, order, ARGV[6], time)
local rank = front[1] and redis.call('ZRANK', queue, member) or 0
if reader[1] then
  rank = rank + redis.call('ZCOUNT', reader_queue, '-inf', '(' .. order)
end
return refusal(holder, rank, order, time)
