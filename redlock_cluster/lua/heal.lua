-- Takes a lock again for a lease that lives, unless it was taken from it by force.
-- KEYS[1]  the lock
-- KEYS[2]  the tokens that were removed by force
-- KEYS[3]  its last number, if this acquisition has one
-- ARGV[1]  the token
-- ARGV[2]  what is left of the lease, milliseconds
-- ARGV[3]  1: it is a read lock; 0: an exclusive one
-- ARGV[4]  the number of the acquisition
-- Replies 1 when the token holds the lock, 0 when it was removed by force or somebody else excludes it.
local function remember()
  if KEYS[3] and last_number(KEYS[3]) < tonumber(ARGV[4]) then
    keep_number(KEYS[3], tonumber(ARGV[4]))
  end
end

if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
if ARGV[3] == '0' then
  if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
    return 0
  end
  remember()
  return 1
end
local ms = milliseconds(redis.call('TIME'))
local added = add_reader(KEYS[1], ARGV[1], ms + ARGV[2], ms, 'GT')
if added == true then
  remember()
  return 1
end
return added or 0
