-- Commands to a node's driver (controller/fleet/commands.py):
--   P:commands:N       list  ids waiting; P:running:N hash id -> epoch that runs it
--   P:command:ID       hash  node state body asked (ms) result; P:result:ID list, one element when done
--   P:reccommands:N, P:reccommand:ID  the same of those to record a call: agents may write these
--                      alone, and the driver takes nothing else from them. Their ids begin with rec-.

local COMMAND_KEEP_MS = 600000
-- Whoever asked for an outbound call has given up by then: it must not ring later.
local ONCE_KEEP_MS = 15000
-- And a lost one must not come back after he was told that nobody knows, and did otherwise.
local AGAIN_MS = 7000

local function records(id)
  return sub(id, 1, 4) == 'rec-'
end

local function command_key(P, id)
  return P .. (records(id) and ':reccommand:' or ':command:') .. id
end

local function queue_key(P, name, id)
  return P .. (records(id) and ':reccommands:' or ':commands:') .. name
end

-- The next that waits. An agent may have written any id among those to record; a driver whose
-- users.acl is of an older version may not look there.
local function next_command(P, name)
  local id = redis.call('LPOP', P .. ':commands:' .. name)
  if id then
    return id
  end
  repeat
    id = redis.pcall('LPOP', P .. ':reccommands:' .. name)
  until type(id) ~= 'string' or records(id)
  return type(id) == 'string' and id
end

-- command: KEYS P; ARGV node id body repeatable("0"/"1"). Queues a command for the node's driver;
-- the same id twice is one command. One that is not repeatable is dropped when no driver takes it
-- within ONCE_KEEP_MS. Returns its state.
redis.register_function('command', function(keys, args)
  local P, name, id = keys[1], args[1], args[2]
  local key = command_key(P, id)
  if redis.call('HSETNX', key, 'state', 'queued') == 1 then
    redis.call('HSET', key, 'node', name, 'body', args[3], 'repeatable', args[4], 'asked', now_ms())
    redis.call('PEXPIRE', key, args[4] == '1' and COMMAND_KEEP_MS or ONCE_KEEP_MS)
    redis.call('RPUSH', queue_key(P, name, id), id)
  end
  return redis.call('HGET', key, 'state')
end)

local function finish_command(P, name, id, state, result)
  local key = command_key(P, id)
  redis.call('HDEL', P .. ':running:' .. name, id)
  redis.call('HSET', key, 'state', state, 'result', result)
  redis.call('PEXPIRE', key, COMMAND_KEEP_MS)
  redis.call('RPUSH', P .. ':result:' .. id, result)
  redis.call('PEXPIRE', P .. ':result:' .. id, COMMAND_KEEP_MS)
end

-- take: KEYS P; ARGV node epoch. Returns id, body of the next command, or nil. A driver that asks runs
-- none: what is running still was lost with a link, a driver or this function's own answer. It is
-- taken again if repeatable and asked for within AGAIN_MS, before what came later; else its result is
-- "unknown": it may have run, so it is never run twice.
redis.register_function('take', function(keys, args)
  local P, name, epoch = keys[1], args[1], args[2]
  local stale, now = fenced(P, name, epoch)
  if stale then
    return stale
  end
  for _, id in ipairs(redis.call('HKEYS', P .. ':running:' .. name)) do
    local lost = redis.call('HMGET', command_key(P, id), 'repeatable', 'asked')
    if lost[1] == '1' and now - tonumber(lost[2] or 0) < AGAIN_MS then
      redis.call('HDEL', P .. ':running:' .. name, id)
      redis.call('LPUSH', queue_key(P, name, id), id)
    else
      finish_command(P, name, id, 'unknown', '{"state":"unknown"}')
    end
  end
  while true do
    local id = next_command(P, name)
    if not id then
      return nil
    end
    local key = command_key(P, id)
    local body = redis.call('HGET', key, 'body')
    if body then
      redis.call('HSET', P .. ':running:' .. name, id, epoch)
      redis.call('HSET', key, 'state', 'running')
      redis.call('PEXPIRE', key, COMMAND_KEEP_MS)
      return { id, body }
    end
  end
end)

-- done: KEYS P; ARGV node epoch id result(JSON). Ends a command that this epoch took.
redis.register_function('done', function(keys, args)
  local P, name = keys[1], args[1]
  local stale = fenced(P, name, args[2])
  if stale then
    return stale
  end
  if redis.call('HGET', P .. ':running:' .. name, args[3]) == args[2] then
    finish_command(P, name, args[3], 'done', args[4])
  end
  return redis.status_reply('OK')
end)
