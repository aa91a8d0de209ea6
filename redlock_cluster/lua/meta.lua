-- Writes what a server remembers of itself for a group.
-- KEYS[1]  where
-- ARGV[1]  the run of the server's process that counts from now on; '': none
-- ARGV[2]  the run that it remembers now, '' for none. Without ARGV[1]: the run that it is to forget, if the id is ARGV[3]
-- ARGV[3]  the server's id for this run
-- ARGV[4]  the group's name
-- ARGV[5]  how many servers that has
-- ARGV[6]  1: this run writes every lock to disk before it answers
-- ARGV[7]  milliseconds of this server's clock; after that no run is written, as what is known of it is too old
-- ARGV[8…] horizons: milliseconds that locks may last
-- Replies 1; 0, and writes nothing, if it remembers another run than that, as somebody was faster, or it is too late.
local meta = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Changes nothing. But a script that has written is not refused what needs memory, and a server that is full extends locks.
redis.call('HDEL', meta, '')
if ARGV[1] ~= '' then
  if (redis.call('HGET', meta, 'run') or '') ~= ARGV[2] or now > tonumber(ARGV[7]) then
    return 0
  end
  redis.call('HSET', meta, 'layout', '1', 'run', ARGV[1], 'id', ARGV[3], 'group', ARGV[4], 'size', ARGV[5], 'durable', ARGV[6])
elseif ARGV[2] ~= '' and redis.call('HGET', meta, 'run') == ARGV[2] and redis.call('HGET', meta, 'id') == ARGV[3] then
  redis.call('HDEL', meta, 'run')
end
local news = false
for i = 8, #ARGV do
  local horizon = tonumber(ARGV[i])
  local counts = tonumber(redis.call('HGET', meta, 'h' .. ARGV[i]) or 0) or 0
  -- Who sends this goes on for twice the horizon, and its last lock lasts as long as the horizon.
  if counts < now + 3 * horizon then
    redis.call('HSET', meta, 'h' .. ARGV[i], string.format('%.0f', now + 4 * horizon))
    news = true
  end
end
if news then
  local fields = redis.call('HGETALL', meta)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) == 'h' and (tonumber(fields[i + 1]) or 0) < now then
      redis.call('HDEL', meta, fields[i])
    end
  end
end
return 1
