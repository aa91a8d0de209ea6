-- What the scripts share that change read locks, a sorted set at the lock's key: members are tokens, scores the
-- milliseconds of this server's clock at which their ttls end.

-- Adds a reader, or gives it a new end; who is over goes, and the key ends with the last of them. Returns whether it did,
-- else the server's error, or false: the key holds something else.
local function add_reader(key, token, ends, ms, flag)
  local first = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first['err'] then
    return not string.find(first['err'], 'WRONGTYPE', 1, true) and first
  end
  if first[1] and string.sub(first[1], 23, 23) ~= '@' then
    return false -- somebody's data
  end
  local added = redis.pcall('ZADD', key, flag, ends, token)
  if type(added) == 'table' then
    return added
  end
  if not first[1] then
    redis.call('PEXPIREAT', key, ends)
    return true
  end
  if tonumber(first[2]) < ms then -- only now: once a script has written, a full server lets it add, too
    redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ms)
  end
  redis.call('PEXPIREAT', key, redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2])
  return true
end

-- Takes a reader away. Returns 1 if it was there, else 0; and whether somebody holds the lock still.
local function remove_reader(key, token)
  if redis.pcall('ZREM', key, token) ~= 1 then
    return 0, redis.call('EXISTS', key) == 1
  end
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  if not last[2] then
    return 1, false
  end
  redis.call('PEXPIREAT', key, last[2]) -- which deletes it if that is past
  return 1, redis.call('EXISTS', key) == 1
end

local function milliseconds(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

