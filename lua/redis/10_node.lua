#!lua name=pbxctl
-- The fleet's picture in Redis, and the one place that decides. The files of this folder are
-- joined in the order of their names into one library (controller/fleet/functions.py).
--
-- Every function takes KEYS[1] = "pbx:{FLEET}"; all keys below it share that hash tag, so a fleet
-- is one slot of a cluster. Time is Redis TIME, in milliseconds.
--
--   P:policy        string  msgpack, what the config says of placement, regions and numbers
--   P:nodes         set     names of registered nodes
--   P:node:N        hash    one node, fields below
--   P:live:N        hash    pbx_id -> call key: the calls that N has
--   P:resv:N        zset    placement -> ms at which it ends unconfirmed
--   P:idx:REGION    zset    node -> score: the nodes that can take a call, least loaded first
--   P:full:REGION   set     nodes that could, but are at their limit
--   P:call:KEY      string  msgpack, one call's record (20_route.lua)
--   P:stats         hash    counters since the data began, behind by one beat at most
--   P:server        string  run id of the server whose data this is, and ms until which it settles
--
-- What may be forgotten stays in this process's memory and costs a placement nothing: arrival rates,
-- counters on their way to P:stats, policy and nodes as unpacked last. A failover starts them anew.
--
-- A node's fields, numbers as strings: region address kind weight calls_max channels_max rate_max
-- version want link sip synced seen since hold epoch channels cpu place loss jitter mes flat
--   want    what the operator wants: active draining standby ejected
--   link    "1" while a driver holds a control link; sip "0" while OPTIONS go unanswered
--   synced  "1" once the live set was compared with the node's own list under the present lease
--   seen    ms of the node's last sign of life; since: ms from which it ramps up
--   hold    ms before which it gets no call: reservations made before the data was lost may land
--   place   "idx", "full" or "" (see refresh)
--   flat    msgpack of the fields in FLAT: what a placement reads, in one piece. Whoever changes one
--           of them ends with recount, which writes it anew.

local RATE_TAU_MS = 5000
local SMOOTH_TAU_MS = 3000
local RAMP_FLOOR = 0.1
-- CPU readings of equal nodes differ by noise; steps keep that noise from choosing the node.
local CPU_STEP = 0.05
local TIE = 0.01

local FLAT = {
  'region', 'address', 'weight', 'calls_max', 'channels_max', 'rate_max', 'want', 'link', 'sip',
  'synced', 'seen', 'since', 'hold', 'channels', 'cpu',
}
local FIELDS = { 'place' }
for i = 1, #FLAT do -- Redis 7.0 has no ipairs or unpack while a library loads
  FIELDS[i + 1] = FLAT[i]
end
local NUMBERS = {
  weight = true, calls_max = true, channels_max = true, rate_max = true, seen = true,
  since = true, hold = true, channels = true, cpu = true,
}
-- Scores are whole millionths of load: Redis reads and prints a whole number several times faster.
local SCORE = 1e6

-- A policy that another process set is seen this much later at most.
local POLICY_MS = 200

local memories = {}

local function memory_of(P)
  local memory = memories[P]
  if not memory then
    memory = { rates = {}, stats = {}, flat = {}, policy_ms = 0 }
    memories[P] = memory
  end
  return memory
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Which server this is, and until when it settles. One that took over from another, or started
-- again from its file, may lack the last of what was written: reservations that were answered for
-- can still land, so it places nothing until they would have ended.
local function server_of(P, pol, now)
  local memory = memory_of(P)
  if not memory.server then
    local id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
    local before, settles = string.match(redis.call('GET', P .. ':server') or '', '^(%x+) (%d+)$')
    memory.server, memory.settles_ms = id, tonumber(settles or 0)
    if before and before ~= id then
      memory.settles_ms = now + (pol and pol.reservation_ms or 0)
    end
  end
  return memory.server, memory.settles_ms
end

-- The policy is unpacked once per change, not once per call.
local function policy(P, now)
  local memory = memory_of(P)
  if memory.policy and now and now - memory.policy_ms < POLICY_MS and now >= memory.policy_ms then
    return memory.policy
  end
  local raw = redis.call('GET', P .. ':policy')
  if not raw then
    memory.policy, memory.policy_raw = nil, nil
    return nil
  end
  if raw ~= memory.policy_raw then
    memory.policy, memory.policy_raw = cmsgpack.unpack(raw), raw
  end
  memory.policy_ms = now or 0
  return memory.policy
end

local function count_stat(P, name)
  local stats = memory_of(P).stats
  stats[name] = (stats[name] or 0) + 1
end

local function flush_stats(P)
  local memory = memory_of(P)
  for name, count in pairs(memory.stats) do
    redis.call('HINCRBY', P .. ':stats', name, count)
  end
  memory.stats = {}
end

-- Arrivals per second, decaying since the last one.
local function decayed_rate(node, now)
  local rate = node.rate
  return rate and rate[1] * math.exp(-math.max(0, now - rate[2]) / RATE_TAU_MS) or 0
end

-- One more call has arrived.
local function bump_rate(P, node, now)
  node.rate = { decayed_rate(node, now) + 1000 / RATE_TAU_MS, now }
  memory_of(P).rates[node.name] = node.rate
end

local function read_node(P, name)
  local values = redis.call('HMGET', P .. ':node:' .. name, unpack(FIELDS))
  local node = { name = name, place = values[1] or nil, rate = memory_of(P).rates[name] }
  for i = 2, #FIELDS do
    local field, value = FIELDS[i], values[i]
    if value then
      node[field] = NUMBERS[field] and tonumber(value) or value
    end
  end
  return node.region and node
end

-- As read_node at a quarter of its cost, for nodes that came from the index.
local function read_indexed(P, name)
  local flat = redis.call('HGET', P .. ':node:' .. name, 'flat')
  if not flat then
    return nil
  end
  local memory = memory_of(P)
  local kept = memory.flat[name]
  if not kept or kept.flat ~= flat then
    kept = cmsgpack.unpack(flat)
    kept.name, kept.flat = name, flat
    memory.flat[name] = kept
  end
  kept.place, kept.rate, kept.spilled = 'idx', memory.rates[name], nil
  return kept
end

local function write_flat(P, node)
  local flat = {}
  for _, field in ipairs(FLAT) do
    flat[field] = node[field]
  end
  redis.call('HSET', P .. ':node:' .. node.name, 'flat', cmsgpack.pack(flat))
end

-- Reservations past their end may still be among the reserved: that errs to the safe side.
local function count_calls(P, node)
  node.live = redis.call('HLEN', P .. ':live:' .. node.name)
  node.reserved = redis.call('ZCARD', P .. ':resv:' .. node.name)
end

local function expire_reservations(P, node, now)
  if redis.call('ZREMRANGEBYSCORE', P .. ':resv:' .. node.name, '-inf', now) > 0 then
    count_calls(P, node)
  end
end

-- Share of its capacity that a node may show while it ramps up, 0.1 to 1.
local function ramp_share(node, pol, now)
  if pol.ramp_ms <= 0 or not node.since then
    return 1
  end
  return math.min(1, math.max(RAMP_FLOOR, (now - node.since) / pol.ramp_ms))
end

-- The fullest of the node's signals, 0 to 1 and beyond, over its weight. Needs count_calls.
local function load_of(node, pol, now)
  local share = ramp_share(node, pol, now)
  local calls = (node.live + node.reserved) / math.max(1, node.calls_max * share)
  local fullest = calls
  if node.channels and node.channels_max then
    fullest = math.max(fullest, node.channels / node.channels_max)
  end
  if node.rate_max then
    fullest = math.max(fullest, decayed_rate(node, now) / (node.rate_max * share))
  end
  if node.cpu then
    fullest = math.max(fullest, math.floor(node.cpu / CPU_STEP) * CPU_STEP)
  end
  return (fullest + TIE * calls) / node.weight
end

-- Why a node can not take a call now, or nil. Limits are judged apart, by has_room.
local function unfit(node, pol, now)
  if node.link ~= '1' then
    return 'down'
  elseif node.synced ~= '1' then
    return 'not in step'
  elseif now - node.seen > pol.silent_ms then
    return 'silent'
  elseif node.sip == '0' then
    return 'signalling silent'
  elseif node.want ~= 'active' then
    return node.want
  elseif not node.calls_max then
    return 'has no limit'
  elseif now < (node.hold or 0) then
    return 'settling'
  end
end

-- Promise 1: one more call fits under the limit, for this priority's share. (refresh keeps full
-- nodes out of the index besides.)
local function has_room(node, share, now)
  if node.live + node.reserved + 1 > math.max(1, math.floor(node.calls_max * share)) then
    return false
  end
  if node.channels and node.channels_max then
    if node.channels + node.reserved + 1 > node.channels_max then
      return false
    end
  end
  return not node.rate_max or decayed_rate(node, now) < node.rate_max
end

-- Puts the node where its state belongs: the index, the full set or neither. Needs count_calls.
local function refresh(P, node, pol, now)
  local place, reason = '', unfit(node, pol, now)
  -- A settling node needs no word from its driver to be fit: it waits in the index.
  if not reason or reason == 'settling' then
    place = (node.live + node.reserved < node.calls_max) and 'idx' or 'full'
  end
  local index, full = P .. ':idx:' .. node.region, P .. ':full:' .. node.region
  if place == 'idx' then
    redis.call('ZADD', index, math.floor(load_of(node, pol, now) * SCORE), node.name)
  end
  if place ~= node.place then
    if place ~= 'idx' then
      redis.call('ZREM', index, node.name)
    end
    redis.call(place == 'full' and 'SADD' or 'SREM', full, node.name)
    redis.call('HSET', P .. ':node:' .. node.name, 'place', place)
    node.place = place
  end
end

-- Brings what follows from a node's fields and calls in step with them.
local function recount(P, name, pol, now)
  local node = read_node(P, name)
  if node then
    write_flat(P, node)
    if pol then
      count_calls(P, node)
      expire_reservations(P, node, now)
      refresh(P, node, pol, now)
    end
  end
  return node
end

-- State as an operator reads it (model.NodeState), with the reason it is not active.
local function state_of(node, pol, now)
  local reason = unfit(node, pol, now) or ''
  local state = 'active'
  if node.want ~= 'active' then
    state = node.want
    if node.link ~= '1' or now - node.seen > pol.silent_ms then
      state = node.want == 'ejected' and 'ejected' or 'down'
    end
  elseif reason == 'not in step' or reason == 'settling' then
    state = 'joining'
  elseif reason ~= '' then
    state = 'down'
  elseif ramp_share(node, pol, now) < 1 then
    state, reason = 'joining', 'ramping up'
  end
  return state, reason
end

-- nodes: KEYS P. Returns msgpack: a list of maps, every node as it stands, by name.
redis.register_function {
  function_name = 'nodes',
  flags = { 'no-writes' },
  callback = function(keys)
    local P, now = keys[1], now_ms()
    local pol = policy(P, now)
    local _, settles_ms = server_of(P, pol, now)
    local settles, list = now < settles_ms, {}
    local names = redis.call('SMEMBERS', P .. ':nodes')
    table.sort(names)
    for _, name in ipairs(names) do
      local node = read_node(P, name)
      if node and pol then
        node.live = redis.call('HLEN', P .. ':live:' .. name)
        node.reserved = redis.call('ZCOUNT', P .. ':resv:' .. name, now, '+inf')
        local state, reason = state_of(node, pol, now)
      if state == 'active' and settles then
        state, reason = 'joining', 'settling'
      end
        local extra = redis.call(
          'HMGET', P .. ':node:' .. name, 'kind', 'version', 'loss', 'jitter', 'owner', 'drift',
          'problem', 'mes')
        list[#list + 1] = {
          name = name, region = node.region, address = node.address, kind = extra[1] or '',
          version = extra[2] or '', state = state, reason = reason, want = node.want,
          load = node.calls_max and load_of(node, pol, now) or 0,
          calls = node.live, reserved = node.reserved, calls_max = node.calls_max or 0,
          channels = node.channels or 0, channels_max = node.channels_max or 0,
          arrivals_per_s = decayed_rate(node, now), cpu = node.cpu or -1,
          weight = node.weight, silent_ms = now - (node.seen or 0),
          loss = tonumber(extra[3] or -1), jitter_ms = tonumber(extra[4] or -1),
          mes = tonumber(extra[8] or -1),
          driver = extra[5] or '', drift = tonumber(extra[6] or 0), problem = extra[7] or '',
        }
      end
    end
    return cmsgpack.pack(list)
  end,
}
