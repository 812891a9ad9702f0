#!lua name=pbxctl
-- The fleet's picture in Redis, and the one place that decides. The files of this folder are
-- joined in the order of their names into one library (controller/fleet/library.py).
--
-- Every function takes KEYS[1] = "pbx:{FLEET}"; all keys below it share that hash tag, so a fleet
-- is one slot of a cluster. Time is Redis TIME, in milliseconds.
--
--   P:policy        string  msgpack, what the config says of placement, regions and numbers
--   P:nodes         set     names of registered nodes
--   P:node:N        hash    one node, fields below
--   P:live:N        hash    pbx_id -> call key: the calls that N has
--   P:call:KEY      string  msgpack, one call's record (11_record.lua)
--   P:stats         hash    counters since the data began, behind by one beat at most
--   P:server        string  whose data this is (14_picture.lua)
--   P:server:ID     string  empty: the memory of server ID is of this data
--
-- A placement reads nodes from this process's memory (14_picture.lua), and reservations are nowhere
-- else (13_reserved.lua). What may be forgotten is there too: arrival rates, counters on their way to
-- P:stats. A failover starts them anew.
--
-- A node's fields, numbers as strings: region address kind weight calls_max channels_max rate_max
-- version want link sip synced seen since hold epoch channels channels_calls cpu cpu_calls host_told
-- loss jitter mes. Whoever changes one of them ends with reread, whoever changes its calls with recount.
--   cpu, cpu_calls  of the host, smoothed, and the live calls that it is of; so with channels_calls
--   host_told       ms of its agent's last word on its host
--   want    what the operator wants: active draining standby ejected
--   link    "1" while a driver holds a control link; sip "0" while OPTIONS go unanswered
--   synced  "1" once the live set was compared with the node's own list under the present lease
--   seen    ms of the node's last sign of life; since: ms from which it ramps up
--   hold    ms before which it gets no call: reservations made before the data was lost may land

local RATE_TAU_MS = 5000
local SMOOTH_TAU_MS = 3000
local RAMP_FLOOR = 0.1
-- Of its limit, the calls among which a reading is shared at least: what a node does besides its calls
-- is no call's price.
local SHARED_MIN = 0.1
local TIE = 0.01

local FIELDS = {
  'region', 'address', 'weight', 'calls_max', 'channels_max', 'rate_max', 'want', 'link', 'sip',
  'synced', 'seen', 'since', 'hold', 'channels', 'channels_calls', 'cpu', 'cpu_calls',
  'host_told',
}
local NUMBERS = {
  weight = true, calls_max = true, channels_max = true, rate_max = true, seen = true,
  since = true, hold = true, channels = true, channels_calls = true, cpu = true, cpu_calls = true,
  host_told = true,
}

-- Looking these up costs more than running them, so a library keeps them once it runs. While it
-- loads, Redis 7.0 has none of them: the first command of all binds them.
local redis_call, redis_pcall, sha1hex, floor, max, min, exp, sub, find, match, format
local packed_integer, number_of, any

local function bind()
  redis_call, redis_pcall, sha1hex, any = redis.call, redis.pcall, redis.sha1hex, next
  floor, max, min, exp = math.floor, math.max, math.min, math.exp
  sub, find, match, format = string.sub, string.find, string.match, string.format
  packed_integer, number_of = struct.pack, tonumber
  -- Redis has Lua collect all the time, at twice the pace at which garbage comes; this is half that.
  collectgarbage('setstepmul', 100)
end

redis_call = function(...)
  bind()
  return redis_call(...)
end

local memories = {}

local function memory_of(P)
  local memory = memories[P]
  if not memory then
    memory = {
      rates = {}, stats = {}, nodes = {}, orders = {}, phones = {},
    }
    memories[P] = memory
  end
  return memory
end

local function now_ms()
  local t = redis_call('TIME')
  local us = t[2] + 0 -- tonumber would read it twice
  return t[1] * 1000 + (us - us % 1000) / 1000
end

-- The policy is unpacked once per change, not once per call; besides: the longest prefix of a number
-- there is, and for each region the order in which its calls look at regions.
local function policy(P)
  local memory = memory_of(P)
  if not memory.policy then
    local raw = redis_call('GET', P .. ':policy')
    if not raw then
      return nil
    end
    local pol = cmsgpack.unpack(raw)
    pol.longest, pol.order = 0, {}
    for prefix in pairs(pol.numbers) do
      pol.longest = math.max(pol.longest, #prefix)
    end
    for region, others in pairs(pol.regions) do
      pol.order[region] = { region, unpack(others) }
    end
    memory.policy = pol
  end
  return memory.policy
end

local function count_stat(memory, name)
  local stats = memory.stats
  stats[name] = (stats[name] or 0) + 1
end

local function flush_stats(P)
  local memory = memory_of(P)
  for name, count in pairs(memory.stats) do
    redis_call('HINCRBY', P .. ':stats', name, count)
  end
  memory.stats = {}
end

-- Arrivals per second, decaying since the last one.
local function decayed_rate(node, now)
  local rate = node.rate
  local past_ms = now - rate.ms
  return past_ms > 0 and rate.per_s * exp(-past_ms / RATE_TAU_MS) or rate.per_s
end

local function rate_of(P, name)
  local rates = memory_of(P).rates
  rates[name] = rates[name] or { per_s = 0, ms = 0 }
  return rates[name]
end

-- One more call has arrived.
local function bump_rate(node, now)
  local rate = node.rate
  rate.per_s, rate.ms = decayed_rate(node, now) + 1000 / RATE_TAU_MS, now
end

-- The fuller of the signals that a node's beats tell, 0 to 1 and beyond, as a line over its calls: its
-- height without any, and its rise with each. A reading is behind what it tells of: a node that looks
-- idle would have every call until the next one, so it is brought forward by the calls since. Each
-- counts as much as those that the reading is of, and no less than its part of the limit.
local function told_line(node)
  local fullest, calls = node.cpu or 0, node.cpu_calls
  local channels = node.channels and node.channels_max and node.channels / node.channels_max or 0
  if channels > fullest then
    fullest, calls = channels, node.channels_calls
  end
  local limit = node.calls_max
  if not calls or not limit then
    return fullest, 0
  end
  local rise = max(fullest / max(calls, limit * SHARED_MIN), 1 / limit)
  return fullest - rise * calls, rise
end

-- As it stands in Redis, without its calls; besides what each call would work out anew:
--   sound         no field keeps calls away: only silence and its hold can
--   height, rise  of told_line
--   told          name and address as a placement's answer has them
local function read_node(P, name)
  local values = redis_call('HMGET', P .. ':node:' .. name, unpack(FIELDS))
  local node = { name = name, rate = rate_of(P, name), seen = 0, since = 0, hold = 0 }
  for i, field in ipairs(FIELDS) do
    local value = values[i]
    if value then
      node[field] = NUMBERS[field] and tonumber(value) or value
    end
  end
  if not node.region then
    return nil
  end
  node.sound = node.link == '1' and node.synced == '1' and node.sip ~= '0' and node.want == 'active'
    and node.calls_max
  node.height, node.rise = told_line(node)
  node.place_stat, node.spill_stat = 'place:' .. node.region, 'spill:' .. node.region
  node.told = 'place|' .. name .. '|' .. (node.address or '') .. '|'
  return node
end

-- Share of its capacity that a node may show while it ramps up, 0.1 to 1.
local function ramp_share(node, pol, now)
  local ramp_ms = pol.ramp_ms
  if now - node.since >= ramp_ms or ramp_ms <= 0 then
    return 1
  end
  return max(RAMP_FLOOR, (now - node.since) / ramp_ms)
end

-- The fullest of the node's signals, 0 to 1 and beyond, over its weight. Needs count_calls.
local function load_of(node, pol, now)
  local share, limit, all = 1, node.calls_max, node.live + node.reserved
  local fullest = node.height + node.rise * all
  if now - node.since < pol.ramp_ms then
    share = ramp_share(node, pol, now)
    limit = limit * share
  end
  local calls = all / (limit > 1 and limit or 1)
  if calls > fullest then
    fullest = calls
  end
  if node.rate_max then
    fullest = max(fullest, decayed_rate(node, now) / (node.rate_max * share))
  end
  return (fullest + TIE * calls) / node.weight
end

-- Why a node can not take a call now, or nil. Limits are judged apart, by has_room.
local function unfit(node, pol, now)
  if node.sound then
    return now - node.seen > pol.silent_ms and 'silent' or now < node.hold and 'settling' or nil
  elseif node.link ~= '1' then
    return 'down'
  elseif node.synced ~= '1' then
    return 'not in step'
  elseif now - node.seen > pol.silent_ms then
    return 'silent'
  elseif node.sip == '0' then
    return 'signalling silent'
  elseif node.want ~= 'active' then
    return node.want
  end
  return 'has no limit'
end

-- Promise 1: one more call fits under the limit, for this priority's share.
local function has_room(node, share, now)
  local calls = node.live + node.reserved
  if calls > 0 and calls + 1 > node.calls_max * share then
    return false
  end
  if node.channels and node.channels_max then
    if node.channels + calls - (node.channels_calls or node.live) + 1 > node.channels_max then
      return false
    end
  end
  return not node.rate_max or decayed_rate(node, now) < node.rate_max
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
