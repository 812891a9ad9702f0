-- What drivers tell: the calls and the health of the nodes whose lease they hold. Each of these
-- functions takes the node and the epoch of its lease, and changes nothing when that epoch is not
-- the present one (promise 4): it answers the error STALE.

-- What is wrong with that epoch, or nil; and the time.
local function fenced(P, name, epoch)
  local _, now = picture(P)
  local current = redis.call('HGET', P .. ':lease:' .. name, 'epoch')
  if not current or current ~= epoch then
    return redis.error_reply('STALE the lease of ' .. name .. ' is not held under this epoch')
  end
  return nil, now
end

-- The record that a placement names, when it is this node's.
local function placed_here(P, name, placement)
  local key = string.match(placement, '^(%x+)%-%d+$')
  local call = key and #key == 32 and read_call(P, key)
  if call and call.p == placement and call.n == name then
    return key, call
  end
end

-- A call shows on its node. Turns its reservation into a live call; a call we did not place counts
-- all the same. Repeatable. Returns true when the live set grew.
local function started(P, name, now, c)
  local live = P .. ':live:' .. name
  local had = redis.call('HGET', live, c.id)
  local key, call = placed_here(P, name, c.placement or '')
  if key then
    local reserved = call.s == 'reserved'
    if call.s == 'ended' and had == false then
      -- The same INVITE, challenged and sent again by its phone.
      call.te, call.cause = nil, nil
    end
    if call.s ~= 'live' or call.pbx ~= c.id then
      call.s, call.pbx, call.ts = 'live', c.id, now
      clean_call(call)
      write_call(P, key, call, LIVE_KEEP_MS)
    end
    if reserved then
      unreserve(memory_of(P), name, call.t)
    end
  elseif not had then
    key = call_key(name .. '\0' .. c.id)
    bump_rate({ rate = rate_of(P, name) }, now)
    write_call(P, key, {
      id = '', n = name, p = '', s = 'live', pbx = c.id, ts = now, why = 'not placed by the fleet',
      from = clean(c.from), to = clean(c.to),
    }, LIVE_KEEP_MS)
  end
  if key and had ~= key then
    redis.call('HSET', live, c.id, key)
    if had then
      -- First seen without its placement: the record made for it then goes.
      redis.call('DEL', P .. ':call:' .. had)
    end
  end
  return had == false
end

local function answered(P, name, now, c)
  local key = redis.call('HGET', P .. ':live:' .. name, c.id)
  local call = key and read_call(P, key)
  if call and not call.ta then
    call.ta = now
    write_call(P, key, call, LIVE_KEEP_MS)
  end
end

local function ended(P, name, now, c)
  local key = redis.call('HGET', P .. ':live:' .. name, c.id)
  if not key then
    return false
  end
  redis.call('HDEL', P .. ':live:' .. name, c.id)
  local call = read_call(P, key)
  -- The call may have been placed elsewhere since: then this leg's end is not the call's.
  if call and call.pbx == c.id and call.n == name and call.s == 'live' then
    call.s, call.te, call.cause = 'ended', now, c.cause
    write_call(P, key, call, ENDED_KEEP_MS)
  end
  return true
end

local KINDS = { started = started, placed = started, answered = answered, ended = ended }

-- events: KEYS P; ARGV node epoch msgpack: list of {k = started|placed|answered|ended, id, placement,
-- from, to, cause}, in the order in which they happened. Repeatable. Returns the count applied.
redis.register_function('events', function(keys, args)
  local P, name = keys[1], args[1]
  local stale, now = fenced(P, name, args[2])
  if stale then
    return stale
  end
  local list = cmsgpack.unpack(args[3])
  memory_of(P).doubt = name
  for _, event in ipairs(list) do
    KINDS[event.k](P, name, now, event)
  end
  recount(P, name, now)
  return #list
end)

-- reconcile: KEYS P; ARGV node epoch msgpack: the node's whole list of calls, each {id, placement,
-- from, to, answered}. Makes the live set equal to it, marks the node in step. Returns added,
-- removed: both 0 when nothing had drifted.
redis.register_function('reconcile', function(keys, args)
  local P, name = keys[1], args[1]
  local stale, now = fenced(P, name, args[2])
  if stale then
    return stale
  end
  local present, added, removed = {}, 0, 0
  memory_of(P).doubt = name
  for _, c in ipairs(cmsgpack.unpack(args[3])) do
    present[c.id] = true
    if started(P, name, now, c) then
      added = added + 1
    end
    if c.answered then
      answered(P, name, now, c)
    end
  end
  for _, id in ipairs(redis.call('HKEYS', P .. ':live:' .. name)) do
    if not present[id] then
      ended(P, name, now, { id = id, cause = 0 })
      removed = removed + 1
    end
  end
  redis.call('HSET', P .. ':node:' .. name, 'synced', '1', 'drift', added + removed)
  reread(P, name, now)
  return { added, removed }
end)

local function smoothed(before, value, dt_ms)
  if not before then
    return value
  end
  return before + (value - before) * (1 - math.exp(-dt_ms / SMOOTH_TAU_MS))
end

-- An agent tells each second.
local HOST_TOLD_MS = 5000

-- Both alike, so that a reading and the calls that it is of are behind by the same time. A node that is
-- not in step has calls that nobody counts yet.
local function put_cpu(write, node, cpu, dt_ms)
  write[#write + 1], write[#write + 2] = 'cpu', format('%.4f', smoothed(node.cpu, cpu, dt_ms))
  if node.synced == '1' then
    local calls = smoothed(node.cpu_calls, node.live, dt_ms)
    write[#write + 1], write[#write + 2] = 'cpu_calls', format('%.2f', calls)
  end
end

-- beat: KEYS P; ARGV node epoch msgpack: {link, sip, silence_ms, channels, channels_max,
-- calls_max, cpu, loss, jitter, mes, version, problem, in_step}; what is absent stays as it was. in_step
-- false (events were lost) keeps calls away until the next reconcile. silence_ms is an age
-- by the driver's own monotonic clock. Returns want, and the number of commands that wait or run:
-- of those that run some may be lost (take, 45_commands.lua).
redis.register_function('beat', function(keys, args)
  local P, name = keys[1], args[1]
  local stale, now = fenced(P, name, args[2])
  if stale then
    return stale
  end
  local told = cmsgpack.unpack(args[3])
  local pol, node = policy(P), memory_of(P).nodes[name]
  if not node or not pol then
    return redis.error_reply('UNKNOWN node ' .. name .. ' is not registered')
  end
  -- A beat without a link is a word of the driver, not a sign of the node's life.
  local seen = node.seen or 0
  if told.link or seen == 0 then
    seen = math.max(seen, now - (told.silence_ms or 0))
  end
  local write = { 'link', told.link and '1' or '0', 'seen', seen }
  local function put(field, value)
    if value ~= nil then
      write[#write + 1], write[#write + 2] = field, tostring(value)
    end
  end
  local was_fit = node.link == '1' and node.sip ~= '0' and seen - (node.seen or 0) <= pol.silent_ms
  local is_fit = told.link and told.sip ~= false
  if is_fit and not was_fit then
    put('since', now)
  end
  if not told.link or told.in_step == false then
    put('synced', '0')
  end
  if told.sip ~= nil then
    put('sip', told.sip and '1' or '0')
  end
  local dt = now - (node.seen or now)
  if told.cpu and now - (node.host_told or 0) > HOST_TOLD_MS then
    put_cpu(write, node, told.cpu, math.max(dt, 1))
  end
  if told.channels then
    put('channels', told.channels)
    put('channels_calls', node.synced == '1' and node.live or nil)
  end
  for _, field in ipairs({ 'channels_max', 'calls_max', 'loss', 'jitter', 'mes', 'version', 'problem' }) do
    put(field, told[field])
  end
  memory_of(P).doubt = name
  redis.call('HSET', P .. ':node:' .. name, unpack(write))
  reread(P, name, now)
  flush_stats(P)
  local memory = memory_of(P)
  if memory.ends_ms and memory.ends_ms - now < PROOF_KEEP_MS / 2 then
    prove(memory, now)
  end
  local waiting = redis.call('LLEN', P .. ':commands:' .. name)
    + redis.call('HLEN', P .. ':running:' .. name)
  -- A driver whose users.acl is of an older version may not look.
  local recording = redis.pcall('LLEN', P .. ':reccommands:' .. name)
  return { node.want, waiting + (tonumber(recording) or 0) }
end)

-- calls: KEYS P; ARGV node limit. Returns msgpack records of the node's live calls.
redis.register_function {
  function_name = 'calls',
  flags = { 'no-writes' },
  callback = function(keys, args)
    local P, list = keys[1], {}
    for i, key in ipairs(redis.call('HVALS', P .. ':live:' .. args[1])) do
      if i > tonumber(args[2]) then
        break
      end
      local raw = redis.call('GET', P .. ':call:' .. key)
      list[#list + 1] = readable(raw) or nil
    end
    return list
  end,
}
