-- Deletes a lock if its value is the token; what is not a string (read locks) is not ours.
-- Source: redis.io, "Distributed Locks with Redis".
-- KEYS[1]  the lock
-- ARGV[1]  the token
-- Replies 1 when it deleted the key, 0 when the key does not hold the token.
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' then
  return 0
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
