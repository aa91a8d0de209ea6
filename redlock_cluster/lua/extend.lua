-- Resets the ttl of whoever has the token. Source: redis.io, "Distributed Locks with Redis".
-- KEYS[1]  the lock
-- ARGV[1]  the token
-- ARGV[2]  the new ttl, milliseconds
-- Replies 1 when it did and the lock is exclusive, 2 when it is a read lock, 0 when nobody holds it by this token.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind == 'string' then
  return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0
end
if kind ~= 'zset' then
  return 0
end
local ms = milliseconds(redis.call('TIME'))
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) < ms then
  return 0
end
redis.call('ZREM', KEYS[1], '') -- a full server lets a script add once it has written
local added = add_reader(KEYS[1], ARGV[1], ms + ARGV[2], ms, 'XX')
return added == true and 2 or added
