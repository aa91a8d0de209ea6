-- Sets a value unless a greater fence was seen.
-- KEYS[1]  a hash with the fields `value` and `fence`
-- ARGV[1]  the fence, decimal, less than 2^53; it is stored as it came, for Lua would write it with an exponent
-- ARGV[2]  the value
-- Replies nil when it set the value, else the fence that it has seen.
local seen = redis.call('HGET', KEYS[1], 'fence')
if seen and tonumber(seen) > tonumber(ARGV[1]) then
  return seen
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'value', ARGV[2])
return nil
