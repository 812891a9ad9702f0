-- The nodes as placement reads them: in this process's memory, so that a call costs no reading of
-- nodes, whatever their number. Redis has every part of it besides, and it is read anew whenever
-- this memory may not be what Redis holds:
--   P:server is "ID SETTLES", the run id of the server that made its memory of this very data and
--   the ms until which it settles. Such a server has P:server:ID too, and each function that needs
--   nodes asks for how long that key has yet: one command that proves the memory fresh and tells the
--   time, for its end is remembered. A server that takes over takes the former one's key away, so
--   one that was primary before reads anew too. It is gone when the data was emptied; a library
--   that was replaced remembers no end.
--   Nobody changes a node behind the library: its writers end with reread or recount. One that
--   breaks off before leaves the node's name in `doubt`, and the next function reads it.
-- Reservations are in memory alone. A library that is to be replaced hands them over in P:server,
-- "ID SETTLES MSGPACK"; where it did not, the new one settles.

local function order_of(memory, region)
  local order = memory.orders[region]
  if not order then
    order = new_order()
    memory.orders[region] = order
  end
  return order
end

-- Takes the node out of its region's order and its number of full nodes.
local function unseat(memory, node)
  local order = order_of(memory, node.region)
  take_out(order, node)
  if node.full then
    node.full, order.full = false, order.full - 1
  end
end

-- Behind all loads: of a node that settles, or does no more and was not looked at since. Empty as it
-- is, it would stand in front, and a few dozen of them would hide the others (LOOK_MAX, 16_choose.lua).
local LAST = 1 / 0

-- By what the node stands in order. Needs its calls.
local function rank_of(node, pol, now)
  return now < node.hold and LAST or load_of(node, pol, now)
end

-- Puts a fit node in order by its load, or among the full. Needs its calls.
local function seat_fit(memory, node, pol, now)
  local order = memory.orders[node.region] or order_of(memory, node.region)
  if node.live + node.reserved < node.calls_max then
    if node.full then
      unseat(memory, node)
    end
    put_in(order, node, rank_of(node, pol, now))
  elseif not node.full then
    unseat(memory, node)
    node.full, order.full = true, order.full + 1
  end
end

-- Puts the node where its state belongs.
local function seat(memory, node, pol, now)
  local reason = unfit(node, pol, now)
  -- A settling node needs no word from its driver to be fit: it waits in its place.
  if reason and reason ~= 'settling' then
    unseat(memory, node)
  else
    seat_fit(memory, node, pol, now)
  end
end

-- Brings the picture in step with the node's calls. now: of the function that changed them.
local function recount(P, name, now)
  local memory, pol = memory_of(P), policy(P)
  local node = memory.nodes[name]
  if node then
    count_calls(P, node, now)
    if pol then
      seat(memory, node, pol, now)
    end
  end
  memory.doubt = nil
end

-- The same with its fields.
local function reread(P, name, now)
  local memory, node = memory_of(P), read_node(P, name)
  if memory.nodes[name] then
    unseat(memory, memory.nodes[name])
  end
  if node then
    node.held = reserved_of(memory, name)
  end
  memory.nodes[name] = node
  recount(P, name, now)
end

-- A role whose users.acl is of an older version may not look: there may be some.
local function count_phones(P, name)
  local count = redis.pcall('HLEN', P .. ':regs:' .. name)
  memory_of(P).phones[name] = type(count) ~= 'number' or count > 0 or nil
end

local PROOF_KEEP_MS = 86400000

-- Puts the end of P:server:ID off, and remembers it. With an older users.acl some may not.
local function prove(memory, now)
  local ends_ms = now + PROOF_KEEP_MS
  local done = redis_pcall('SET', memory.proof_key, '', 'PXAT', format('%d', ends_ms))
  memory.ends_ms = not done.err and ends_ms or nil
end

-- What P:server says of reservations and of settling. Those of another server, and those that a
-- library did not hand over, were answered for and can still land: so nothing is placed until they
-- would have ended.
local function learn_reserved(memory, told, pol, now)
  local id, settles_ms, handed = match(told or '', '^(%x+) (%d+) ?(.*)$')
  if memory.reserved and (not id or id == memory.run_id) then
    return id
  end
  memory.reserved, memory.settles_ms = {}, tonumber(settles_ms or 0)
  if id == memory.run_id and handed ~= '' then
    for name, slots in pairs(cmsgpack.unpack(handed)) do
      for slot, count in pairs(slots) do
        reserve(reserved_of(memory, name), slot * SLOT_MS, count)
      end
    end
  elseif id then
    memory.settles_ms = now + (pol and pol.reservation_ms + SLOT_MS or 0)
  end
  return id
end

local function adopt(P, memory, dry)
  local now, told = now_ms(), redis_call('GET', P .. ':server')
  memory.policy, memory.doubt, memory.ends_ms = nil, nil, nil
  memory.nodes, memory.orders, memory.phones = {}, {}, {}
  if not memory.run_id then
    memory.run_id = match(redis_call('INFO', 'server'), 'run_id:(%x+)')
    memory.proof_key = P .. ':server:' .. memory.run_id
  end
  local id = learn_reserved(memory, told, policy(P), now)
  local names = redis_call('SMEMBERS', P .. ':nodes')
  if not id and #names == 0 then -- emptied: nodes that come back have a hold
    memory.reserved, memory.settles_ms = {}, 0
  end
  for _, name in ipairs(names) do
    reread(P, name, now)
    count_phones(P, name)
  end
  if not dry then
    -- With an older users.acl some may not: they read anew each time, until the steward was here.
    local server = memory.run_id .. format(' %d', memory.settles_ms)
    if not redis_pcall('SET', P .. ':server', server).err then
      if id and id ~= memory.run_id then
        redis_pcall('DEL', P .. ':server:' .. id)
      end
      prove(memory, now)
    end
  end
  return memory, now
end

-- The memory, as Redis has it, and the time. dry: for functions that write nothing; a server that
-- has not made this data its own yet, such as a replica, then reads it anew for each.
local function picture(P, dry)
  local memory = memory_of(P)
  -- With an older users.acl the answer is an error, which is no number.
  local left_ms = memory.ends_ms and number_of(redis_pcall('PTTL', memory.proof_key))
  if not left_ms or left_ms < 0 then
    return adopt(P, memory, dry)
  end
  local now = memory.ends_ms - left_ms
  if memory.doubt and not dry then
    reread(P, memory.doubt, now)
  end
  return memory, now
end

-- handover: KEYS P. To be called right before this library is replaced: leaves its reservations to
-- the one that comes, also those of other fleets of this server. Should none come, it goes on.
redis.register_function('handover', function()
  bind()
  for P, memory in pairs(memories) do
    if memory.ends_ms then
      local handed = {}
      for name, held in pairs(memory.reserved) do
        handed[name] = held.slots
      end
      redis_pcall('SET', P .. ':server',
        memory.run_id .. format(' %d ', memory.settles_ms) .. cmsgpack.pack(handed))
      redis_pcall('DEL', memory.proof_key)
    end
  end
  return redis.status_reply('OK')
end)

-- nodes: KEYS P. Returns msgpack: a list of maps, every node as it stands, by name.
redis.register_function {
  function_name = 'nodes',
  flags = { 'no-writes' },
  callback = function(keys)
    local P = keys[1]
    local memory, now = picture(P, true)
    local settles_ms, pol, list = memory.settles_ms, policy(P), {}
    local names = redis_call('SMEMBERS', P .. ':nodes')
    table.sort(names)
    for _, name in ipairs(names) do
      local node = read_node(P, name)
      if node and pol then
        count_calls(P, node, now)
        local state, reason = state_of(node, pol, now)
        if state == 'active' and now < settles_ms then
          state, reason = 'joining', 'settling'
        end
        local extra = redis_call(
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
