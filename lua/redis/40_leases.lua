-- Who may write what. A lease names an owner and an epoch; each new owner gets a higher epoch, from
-- Redis TIME in microseconds, so that it is higher than any before even after all data was lost.
--   P:lease:NAME    hash  owner epoch ends (ms) server. NAME is a node, or "@steward" for the leader.
--                   A server that took over gives new epochs: so all that it may lack is told anew.
--   P:drivers       zset  driver -> ms until which it counts

-- Returns epoch, whether it is a new one, whether the last owner gave the lease back in order.
local function lease(P, name, owner, ttl_ms, now)
  local key = P .. ':lease:' .. name
  local held = redis.call('HMGET', key, 'owner', 'epoch', 'ends', 'server')
  local server = picture(P).run_id
  if held[1] == owner and held[4] == server then
    redis.call('HSET', key, 'ends', now + ttl_ms)
    return held[2], false
  end
  if held[1] and held[1] ~= '' and held[1] ~= owner and tonumber(held[3]) > now then
    return nil
  end
  local t = redis.call('TIME')
  local us = tonumber(t[1]) * 1000000 + tonumber(t[2])
  local epoch = string.format('%.0f', math.max(us, tonumber(held[2] or 0) + 1))
  redis.call('HSET', key, 'owner', owner, 'epoch', epoch, 'ends', now + ttl_ms,
    'server', server)
  return epoch, true, held[1] == '' and held[4] == server
end

-- lead: KEYS P; ARGV name owner ttl_ms. Takes or renews one lease. Returns the epoch, or nil while
-- another holds it.
redis.register_function('lead', function(keys, args)
  local P, now = keys[1], now_ms()
  return (lease(P, '@' .. args[1], args[2], tonumber(args[3]), now))
end)

-- claim: KEYS P; ARGV owner ttl_ms node... Renews the owner's leases and takes free ones up to its
-- share of the nodes (drivers alive share them evenly); lets go of what is over its share.
-- Returns a flat list: node, epoch, ...
redis.register_function('claim', function(keys, args)
  local P, owner, ttl_ms, now = keys[1], args[1], tonumber(args[2]), now_ms()
  picture(P)
  redis.call('ZREMRANGEBYSCORE', P .. ':drivers', '-inf', now)
  redis.call('ZADD', P .. ':drivers', now + ttl_ms, owner)
  local pol, total = policy(P), #args - 2
  local share = math.ceil(total / redis.call('ZCARD', P .. ':drivers'))
  local mine, others = {}, {}
  for i = 3, #args do
    local holder = redis.call('HGET', P .. ':lease:' .. args[i], 'owner')
    local list = holder == owner and mine or others
    list[#list + 1] = args[i]
  end
  local held, out = 0, {}
  local function take(name)
    if held >= share then
      return
    end
    local epoch, new, handed = lease(P, name, owner, ttl_ms, now)
    if epoch then
      held = held + 1
      out[#out + 1], out[#out + 2] = name, epoch
      local node = new and read_node(P, name)
      if node then
        -- What happened since the last owner's word is unknown: no call until compared anew. But
        -- an owner that went in order told all until now. Its word stands until the node counts as
        -- silent, for a driver's first beat comes after its first comparison (pbx/worker.py).
        if not handed or not pol or now - (node.seen or 0) > pol.silent_ms then
          redis.call('HSET', P .. ':node:' .. name, 'synced', '0')
        end
        redis.call('HSET', P .. ':node:' .. name, 'owner', owner)
        reread(P, name, now)
      end
    end
  end
  for _, name in ipairs(mine) do
    if held >= share then
      redis.call('HSET', P .. ':lease:' .. name, 'ends', 0, 'owner', '')
    end
    take(name)
  end
  for _, name in ipairs(others) do
    take(name)
  end
  return out
end)

-- release: KEYS P; ARGV owner node... A driver that stops in order gives its nodes back at once, and
-- its epochs count until another takes them. Returns how many other drivers are there to do so.
redis.register_function('release', function(keys, args)
  local P, owner = keys[1], args[1]
  redis.call('ZREM', P .. ':drivers', owner)
  redis.call('ZREMRANGEBYSCORE', P .. ':drivers', '-inf', now_ms())
  for i = 2, #args do
    local key = P .. ':lease:' .. args[i]
    if redis.call('HGET', key, 'owner') == owner then
      redis.call('HSET', key, 'ends', 0, 'owner', '')
    end
  end
  return redis.call('ZCARD', P .. ':drivers')
end)

-- register: KEYS P; ARGV node epoch msgpack: {region, address, kind, weight, calls_max,
-- channels_max, rate_max, want, owner}. want counts for a node not known so far; a limit that is
-- not told is none. Repeatable.
redis.register_function('register', function(keys, args)
  local P, name = keys[1], args[1]
  local stale = fenced(P, name, args[2])
  if stale then
    return stale
  end
  local now, pol, told = now_ms(), policy(P), cmsgpack.unpack(args[3])
  if not pol then
    return redis.error_reply('UNKNOWN the fleet has no policy yet')
  end
  local key = P .. ':node:' .. name
  memory_of(P).doubt = name
  if not memory_of(P).nodes[name] then
    redis.call('HSET', key, 'want', told.want or 'active', 'link', '0', 'synced', '0', 'seen', 0,
      'hold', now + pol.reservation_ms)
  end
  redis.call('SADD', P .. ':nodes', name)
  redis.call('HSET', key, 'region', told.region, 'address', told.address, 'kind', told.kind,
    'weight', told.weight, 'owner', told.owner)
  for _, field in ipairs({ 'calls_max', 'channels_max', 'rate_max' }) do
    if told[field] then
      redis.call('HSET', key, field, told[field])
    else
      redis.call('HDEL', key, field)
    end
  end
  reread(P, name, now)
  return redis.status_reply('OK')
end)

-- forget: KEYS P; ARGV node... Removes nodes that the config no longer has.
redis.register_function('forget', function(keys, args)
  local P, now = keys[1], now_ms()
  local memory = picture(P)
  for _, name in ipairs(args) do
    memory.doubt = name
    redis.call('SREM', P .. ':nodes', name)
    for _, phone in ipairs(redis.call('HKEYS', P .. ':regs:' .. name)) do
      redis.call('ZREM', P .. ':at:' .. phone, name)
    end
    redis.call('HDEL', P .. ':phoneack', name)
    for _, kind in ipairs({
      'node', 'live', 'lease', 'commands', 'running', 'regs', 'written', 'read',
    }) do
      redis.call('DEL', P .. ':' .. kind .. ':' .. name)
    end
    redis.pcall('DEL', P .. ':reccommands:' .. name) -- with an older users.acl it may not
    reread(P, name, now)
    memory.rates[name], memory.phones[name], memory.reserved[name] = nil, nil, nil
  end
  return #args
end)

-- want: KEYS P; ARGV node state. What the operator wants of a node. Returns the former want, or
-- nil for an unknown node. A node that becomes active ramps up.
redis.register_function('want', function(keys, args)
  local P, name, state, now = keys[1], args[1], args[2], now_ms()
  local memory = picture(P)
  local before = memory.nodes[name] and memory.nodes[name].want
  if not before then
    return nil
  end
  if before ~= state then
    memory.doubt = name
    redis.call('HSET', P .. ':node:' .. name, 'want', state)
    if state == 'active' then
      redis.call('HSET', P .. ':node:' .. name, 'since', now)
    end
    reread(P, name, now)
  end
  return before
end)

-- policy: KEYS P; ARGV msgpack, "0"/"1". What placement goes by (routing/policy.py makes it); with
-- "0" only where there is none yet: drivers fill a gap, the leader decides.
redis.register_function('policy', function(keys, args)
  local key = keys[1] .. ':policy'
  if args[2] == '1' then
    redis.call('SET', key, args[1])
  else
    redis.call('SETNX', key, args[1])
  end
  memory_of(keys[1]).policy = nil
  return redis.status_reply('OK')
end)

-- host: KEYS P; ARGV node cpu load1. The agent's report of its host; cpu 0 to 1. It has no lease,
-- so it can not make a node fit: it only fills the CPU signal, before what the PBX itself tells of it.
redis.register_function('host', function(keys, args)
  local P, name, cpu = keys[1], args[1], tonumber(args[2])
  local node = picture(P).nodes[name]
  if cpu and cpu >= 0 and cpu <= 1 and node then
    local now = now_ms()
    local write = { 'load1', args[3], 'host_told', now }
    put_cpu(write, node, cpu, 1000)
    redis.call('HSET', P .. ':node:' .. name, unpack(write))
    reread(P, name, now)
  end
  return redis.status_reply('OK')
end)

-- file_read: KEYS P; ARGV node epoch what mark problem. The node's PBX has read the files of that
-- mark, or has not, and why (controller/fleet/files.py).
--   P:written:N  hash  what -> mark of what the node's agent wrote last
--   P:read:N     hash  what -> mark of what its PBX read last, a space, what went wrong
redis.register_function('file_read', function(keys, args)
  local stale = fenced(keys[1], args[1], args[2])
  if stale then
    return stale
  end
  redis.call('HSET', keys[1] .. ':read:' .. args[1], args[3], args[4] .. ' ' .. clean(args[5], 128))
  return redis.status_reply('OK')
end)
