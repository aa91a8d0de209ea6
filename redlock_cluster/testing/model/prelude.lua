-- The environment of scripts: the redis library, the safe part of Lua's own, and nothing that lasts.
-- Called once for a runtime with:
--   library        the functions of the redis library
--   text_of        a fault that the library raised -> its text; nil for any other
--   plain_errors   errors are strings, as before Redis 7; else tables with `err`
--   also_server    the library is called `server` too (Valkey)
-- Returns: compile, run, line
local library, text_of, plain_errors, also_server = ...

local function line()
  for level = 1, 250 do
    local info = debug.getinfo(level, 'Sl')
    if not info then return 0 end
    if info.source == '@user_script' then return info.currentline end
  end
  return 0
end

local function readonly() error('Attempt to modify a readonly table', 2) end

local function frozen(from, without)
  local copy = {}
  for name, value in pairs(from) do copy[name] = value end
  for _, name in ipairs(without) do copy[name] = nil end
  return setmetatable({}, {__index = copy, __newindex = readonly, __metatable = false})
end

local redis = {LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3}
for name, implementation in pairs(library) do redis[name] = python.as_function(implementation) end
function redis.log() end
function redis.replicate_commands() return true end

-- As scripts catch it: a string, also where an error is a table with `err`.
local function caught(fine, fault, ...)
  if fine then return fine, fault, ... end
  if type(fault) == 'userdata' then return false, text_of(fault) end
  if type(fault) == 'table' and not plain_errors and type(fault.err) == 'string' then return false, fault.err end
  return false, fault
end

local globals = {
  redis = frozen(redis, {}), string = frozen(string, {'dump'}), table = frozen(table, {}),
  math = frozen(math, {'random', 'randomseed'}),
  pcall = function(...) return caught(pcall(...)) end,
}
if also_server then globals.server = globals.redis end
for _, name in ipairs({'assert', 'error', 'getmetatable', 'ipairs', 'next', 'pairs', 'rawequal', 'rawget',
                       'select', 'setmetatable', 'tonumber', 'tostring', 'type', 'unpack'}) do
  globals[name] = _G[name]
end
getmetatable('').__metatable = false

local environment = setmetatable({}, {__index = globals, __newindex = readonly, __metatable = false})
globals._G = environment
setmetatable(globals, {__index = function(_, name)
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end})

local function compile(source)
  local script, complaint = loadstring(source, '@user_script')
  if script then setfenv(script, environment) end
  return script, complaint
end

-- As the reply shows it: the text and the line, or a fault that is not the script's.
local function explained(fault)
  if type(fault) == 'userdata' then
    local text = text_of(fault)
    if not text then return fault end
    fault = plain_errors and text or {err = text}
  end
  if type(fault) == 'table' and not plain_errors then return {fault.err or 'ERR unknown error', line()} end
  if not plain_errors then return {'ERR ' .. tostring(fault), line()} end
  if type(fault) ~= 'string' and type(fault) ~= 'number' then
    return {"@err_handler_def:9: err_handler_def:9: attempt to concatenate local 'err' (a " .. type(fault) .. ' value)', 0}
  end
  return {'@user_script:' .. line() .. ': ' .. fault, 0}
end

local function run(script, keys, arguments)
  globals.KEYS, globals.ARGV = keys, arguments
  local fine, result = xpcall(script, explained)
  return fine, result
end

return compile, run, line
