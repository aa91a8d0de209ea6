-- Whether a token holds a read lock; changes nothing.
-- KEYS[1]  the lock
-- ARGV[1]  the token
-- Replies 1 when it does, 2 when it does not and could, 0 when somebody excludes it.
local till = redis.pcall('ZSCORE', KEYS[1], ARGV[1])
if type(till) == 'table' then
  return string.find(till['err'], 'WRONGTYPE', 1, true) and 0 or till
end
return till and tonumber(till) >= milliseconds(redis.call('TIME')) and 1 or 2
