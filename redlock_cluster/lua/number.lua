-- Takes an exclusive lock unless somebody holds it, and numbers the acquisition.
-- KEYS[1]  the lock
-- KEYS[2]  its last number
-- ARGV[1]  the token
-- ARGV[2]  the ttl, milliseconds
-- ARGV[3]  the least number: microseconds, about this server's time; 0: that
-- Replies 1 when it took the lock and gave out the least number; {number, 0} when it gave out another one. Else the
-- holder's token, '' if the key is no string; or CLOCK and this server's time, microseconds, if that is another one.
local least, refused = least_number(ARGV[3])
if not least then
  return refused
end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local holder = redis.pcall('GET', KEYS[1])
  return type(holder) == 'table' and '' or holder
end
local number, ended = next_number(KEYS[2], least)
return number == ARGV[3] and 1 or number and {number, 0} or ended
