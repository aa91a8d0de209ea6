-- Takes a lock from whoever has the token, and leaves its queue, or stands there again. If others may have it then, tells
-- them.
-- Source: redis.io, "Distributed Locks with Redis".
-- KEYS     as in queue.lua
-- ARGV[1]  the token; '' for none
-- ARGV[2]  who leaves the queue; '' for nobody
-- ARGV[3]  1: we know that others wait; 0: we do not; 'r': it is a read lock
-- ARGV[4]  our order, if we stand in the queue again instead of leaving: an attempt that fails has lost no place
-- ARGV[5]  1: the order as it is; 0: within the last 20 ms
-- ARGV[6]  how long we count unless we come again, milliseconds
-- Replies 1 when it took the token away, 2 when it did and others wait of whom we did not know, 0 when nobody holds the
-- lock by this token.
local holder, deleted, shared = nil, 0, ARGV[3] == 'r'
if not shared then
  holder = redis.pcall('GET', lock)
  shared = type(holder) == 'table'
  if shared and not string.find(holder['err'], 'WRONGTYPE', 1, true) then
    return holder
  end
end
if shared then
  -- Whoever has a lease knows whether it is over; a token alone must be told.
  local ends = holder and redis.pcall('ZSCORE', lock, ARGV[1])
  deleted, holder = remove_reader(lock, ARGV[1])
  if type(ends) == 'string' and tonumber(ends) < milliseconds(redis.call('TIME')) then
    deleted = 0
  end
elseif holder == ARGV[1] and holder ~= '' then
  redis.call('DEL', lock)
  holder, deleted = false, 1
end
if ARGV[4] then
  local time, where = now(), ARGV[3] == 'r' and reader_queue or queue
  itself = ARGV[2]
  stand(itself, where, place(itself, where, ARGV[4], ARGV[5], time), ARGV[6], time)
elseif ARGV[2] ~= '' then
  redis.call('ZREM', queue, ARGV[2])
  redis.call('ZREM', reader_queue, ARGV[2])
  redis.call('ZREM', expiry, ARGV[2])
end
local first
if not holder then
  first = (not shared or redis.pcall('EXISTS', queue, reader_queue) ~= 0) and tell_first() or nil
else
  first = redis.pcall('ZRANGE', queue, 0, 0, 'WITHSCORES')
  if shared and ARGV[2] ~= '' and not itself then -- readers may have waited for whoever leaves
    tell_readers(first[2])
  end
  first = first[1] or redis.pcall('ZRANGE', reader_queue, 0, 0)[1]
end
if ARGV[2] ~= '' and not first then
  redis.call('DEL', expiry) -- of those who have been served
end
return (first and ARGV[3] == '0') and 2 * deleted or deleted
