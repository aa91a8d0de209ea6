-- Has this server remember a number that others gave out to the same acquisition.
-- KEYS[1]  the lock
-- KEYS[2]  its last number
-- ARGV[1]  the token
-- ARGV[2]  the number
-- Replies 1 when it remembers that number or a greater one, 0 when the token does not hold the lock.
local holds = redis.pcall('GET', KEYS[1])
if type(holds) == 'table' then
  holds = redis.pcall('ZSCORE', KEYS[1], ARGV[1]) and ARGV[1]
end
if holds ~= ARGV[1] then
  return 0
end
if last_number(KEYS[2]) < tonumber(ARGV[2]) then
  keep_number(KEYS[2], tonumber(ARGV[2]))
end
return 1
