-- Deletes a lock whatever holds it, remembers the tokens, so that nobody takes it again with one of them, and tells the
-- first in the queue.
-- KEYS[1..4]  as in queue.lua
-- KEYS[5]     the tokens that were removed by force, each with until when it counts, microseconds of this server's clock
-- ARGV[1]     how long they count at least, milliseconds: other servers may keep them longer than this one
-- ARGV[2]     how long they count at most, milliseconds
-- ARGV[3..]   tokens that other servers hold: this one may be about to take them again
-- Replies 1 when it deleted the lock, 0 when nobody held it.
local forced, left, most = KEYS[5], tonumber(ARGV[1]), tonumber(ARGV[2])
local kind = redis.call('TYPE', lock)['ok']
local tokens = {unpack(ARGV, 3)}
if kind ~= 'none' then
  local ttl = redis.call('PTTL', lock)
  left = math.max(left, ttl < 0 and most or ttl)
end
left = string.format('%.0f', math.min(left, most))
if kind == 'zset' then -- read locks
  for _, member in ipairs(redis.call('ZRANGE', lock, 0, -1)) do
    tokens[#tokens + 1] = member
  end
elseif kind == 'string' then
  local value = redis.call('GET', lock)
  if string.sub(value, 23, 23) == '@' then -- other libraries take nothing again, and their values may be long
    tokens[#tokens + 1] = value
  end
end
if #tokens > 0 then
  local time = now()
  local old = redis.call('ZRANGEBYSCORE', forced, '-inf', string.format('%.0f', time), 'LIMIT', 0, 100)
  redis.call('ZREM', forced, '', unpack(old)) -- once a script has written, a full server lets it add, too
  local till = string.format('%.0f', time + left * 1000)
  for _, token in ipairs(tokens) do
    redis.call('ZADD', forced, till, token)
  end
  if redis.call('PTTL', forced) < tonumber(left) then
    redis.call('PEXPIRE', forced, left)
  end
end
if kind ~= 'none' then -- only now: where the tokens can't be remembered, nothing is deleted
  redis.call('DEL', lock)
  for _, token in ipairs(tokens) do -- each holder looks then
    redis.pcall('PUBLISH', 'redlock:' .. string.sub(token, 1, 8), 'x' .. token)
  end
end
tell_first()
return kind ~= 'none' and 1 or 0
