-- The nodes as placement reads them: in this process's memory, so that a call costs no reading of
-- nodes, whatever their number. Redis has every part of it besides, and it is read anew whenever
-- this memory may not be what Redis holds:
--   P:server names the server that made its memory of this very data. It is compared at the start
--   of each function that needs nodes. It is another's after a takeover, also when this server was
--   primary before; it is gone when the data was emptied; a library that was replaced remembers none.
--   Nobody changes a node behind the library: its writers end with reread or recount. One that
--   breaks off before leaves the node's name in `doubt`, and the next function reads it.

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

-- Puts a fit node in order by its load, or among the full. Needs its calls.
local function seat_fit(memory, node, pol, now)
  local order = memory.orders[node.region] or order_of(memory, node.region)
  if node.live + node.reserved < node.calls_max then
    if node.full then
      unseat(memory, node)
    end
    put_in(order, node, load_of(node, pol, now))
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
  memory.nodes[name] = node or nil
  recount(P, name, now)
end

-- A role whose users.acl is of an older version may not look: there may be some.
local function count_phones(P, name)
  local count = redis.pcall('HLEN', P .. ':regs:' .. name)
  memory_of(P).phones[name] = type(count) ~= 'number' or count > 0 or nil
end

-- Until when this server settles: one that took over from another, or started again from its file,
-- may lack the last of what was written. Reservations that were answered for can still land, so it
-- places nothing until they would have ended.
local function settling_until(memory, told, pol, now)
  local id, until_ms = match(told or '', '^(%x+) (%d+)$')
  if id and id ~= memory.run_id then
    return now + (pol and pol.reservation_ms or 0)
  end
  return tonumber(until_ms or 0)
end

local function adopt(P, memory, told, dry)
  local now = now_ms()
  memory.server, memory.policy, memory.doubt = nil, nil, nil
  memory.nodes, memory.orders, memory.phones, memory.reserved = {}, {}, {}, {}
  memory.run_id = memory.run_id or match(redis_call('INFO', 'server'), 'run_id:(%x+)')
  memory.settles_ms = settling_until(memory, told, policy(P), now)
  for _, name in ipairs(redis_call('SMEMBERS', P .. ':nodes')) do
    reread(P, name, now)
    count_phones(P, name)
  end
  if not dry then
    local server = memory.run_id .. format(' %d', memory.settles_ms)
    -- With an older users.acl some may not: they read anew each time, until the steward was here.
    memory.server = not redis.pcall('SET', memory.server_key, server).err and server or nil
  end
end

-- The memory, as Redis has it. dry: for functions that write nothing; a server that has not made this
-- data its own yet, such as a replica, then reads it anew for each.
local function picture(P, dry)
  local memory = memory_of(P)
  local told = redis_call('GET', memory.server_key)
  if not told or told ~= memory.server then
    adopt(P, memory, told, dry)
  elseif memory.doubt and not dry then
    memory.reserved[memory.doubt] = nil
    reread(P, memory.doubt, now_ms())
  end
  return memory
end

-- nodes: KEYS P. Returns msgpack: a list of maps, every node as it stands, by name.
redis.register_function {
  function_name = 'nodes',
  flags = { 'no-writes' },
  callback = function(keys)
    local P, now = keys[1], now_ms()
    local settles_ms, pol, list = picture(P, true).settles_ms, policy(P), {}
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
