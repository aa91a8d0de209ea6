-- Resets a lock's ttl if its value is the token; what is not a string (read locks) is not ours.
-- Source: redis.io, "Distributed Locks with Redis".
-- KEYS[1]  the lock
-- ARGV[1]  the token
-- ARGV[2]  the new ttl, milliseconds
-- Replies 1 when it set the ttl, 0 when the key does not hold the token.
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' then
  return 0
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
