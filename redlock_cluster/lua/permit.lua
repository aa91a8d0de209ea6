-- Takes one permit of a semaphore, unless somebody holds that or all that are free are for those before us in the queue;
-- else joins the queue, or stays in it.
-- KEYS[1..4]  as in queue.lua; nothing stands at the first
-- KEYS[5]     how many permits there are
-- KEYS[6..]   the permits
-- ARGV[1..6]  as in take.lua; in no queue, order '' lets everybody there go first
-- ARGV[7]     which permit, from 1 on
-- Replies 1 when it took the permit, 2 when it did and others wait. Else five values as take.lua does, of the semaphore:
-- it is free (-2) while any permit is; and which permits are free, '1' or '0' for each. One value if it has another
-- number of permits than we think: that number.
local size, member, order, wanted = KEYS[5], ARGV[3], ARGV[4], tonumber(ARGV[7])
local permits = #KEYS - 5
local known = redis.call('GET', size)
if known and tonumber(known) ~= permits then
  return {known}
end
local holders = redis.call('MGET', unpack(KEYS, 6))
local free, which = 0, {}
for i = 1, permits do
  which[i] = holders[i] and '0' or '1'
  free = free + which[i]
end
local time = now()
if order ~= '' then
  order = place(member, queue, order, ARGV[5], time)
end

local function before_us()
  return order == '' and redis.call('ZCARD', queue) or redis.call('ZCOUNT', queue, '-inf', '(' .. order)
end

-- Remembers the number as long as somebody has or wants a permit.
local function remember(ms)
  if redis.call('PTTL', size) < tonumber(ms) then
    redis.call('SET', size, permits, 'PX', ms)
  end
end

local before = before_us()
if before > 0 then
  forget_silent(time)
  if free > 0 and ARGV[5] == '1' then -- it may be dead, or not have heard of it
    tell_first()
  end
  before = before_us()
end
if before < free and not holders[wanted] and redis.call('SET', KEYS[5 + wanted], ARGV[1], 'NX', 'PX', ARGV[2]) then
  remember(ARGV[2])
  if member ~= '' then
    redis.call('ZREM', queue, member)
    redis.call('ZREM', expiry, member)
  end
  if redis.call('EXISTS', queue) == 0 then
    redis.call('DEL', expiry)
    return 1
  end
  if free > 1 then
    tell_first()
  end
  return 2
end
local left = free > 0 and -2 or -1
if left == -1 and before == 0 then
  for i = 1, permits do
    local ttl = redis.call('PTTL', KEYS[5 + i])
    if ttl >= 0 and (left < 0 or ttl < left) then
      left = ttl
    end
  end
end
if member == '' then
  return {holders[wanted] or '', left, -1, '', '', table.concat(which)}
end
stand(member, queue, order, ARGV[6], time)
remember(2 * ARGV[6])
return {holders[wanted] or '', left, before, order, string.format('%.0f', time), table.concat(which)}
