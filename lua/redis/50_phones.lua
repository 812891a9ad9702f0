-- Phones: which there are, which nodes have their files, and where each is registered.
--   P:phones:REGION  hash  phone -> msgpack of what a node's file needs, digests included
--   P:phonever       hash  region -> version of P:phones:REGION
--   P:phoneack       hash  node -> JSON, the versions that the node runs on (fleet/phones.py)
--   P:regs:N         hash  phone -> msgpack {c, ua, tr, t, e}: contact, user agent, transport, ms
--                          since when, ms at which it ends
--   P:at:PHONE       zset  node -> ms at which the registration there ends
-- A registration belongs to its node's driver, like a call: written under the node's lease.

local PHONE_TEXT_MAX = 128
local EXPIRES_UNTOLD_S = 60
-- A phone that renews late is not gone yet; the node itself tells when it is.
local EXPIRES_GRACE_MS = 5000

-- publish: KEYS P; ARGV epoch region version name blob... Replaces the phones of a region; the
-- epoch is that of the gate that leads "phones".
redis.register_function('publish', function(keys, args)
  local P, region = keys[1], args[2]
  local stale = fenced(P, '@phones', args[1])
  if stale then
    return stale
  end
  local key = P .. ':phones:' .. region
  redis.call('DEL', key)
  for i = 4, #args, 2 do
    redis.call('HSET', key, args[i], args[i + 1])
  end
  redis.call('HSET', P .. ':phonever', region, args[3])
  return redis.status_reply('OK')
end)

-- phones: KEYS P; ARGV region. Returns version, then name, blob, ...; nothing for a region that
-- was never published.
redis.register_function {
  function_name = 'phones',
  flags = { 'no-writes' },
  callback = function(keys, args)
    local version = redis.call('HGET', keys[1] .. ':phonever', args[1])
    if not version then
      return {}
    end
    local out = redis.call('HGETALL', keys[1] .. ':phones:' .. args[1])
    table.insert(out, 1, version)
    return out
  end,
}

local function leave(P, node, phone)
  redis.call('HDEL', P .. ':regs:' .. node, phone)
  redis.call('ZREM', P .. ':at:' .. phone, node)
end

local function register(P, node, now, told)
  local key = P .. ':regs:' .. node
  local raw = redis.call('HGET', key, told.name)
  local before = raw and cmsgpack.unpack(raw)
  local same = before and before.c == clean(told.contact, PHONE_TEXT_MAX)
  local expires_s = told.expires_s > 0 and told.expires_s
  local ends = now + (expires_s or EXPIRES_UNTOLD_S) * 1000 + EXPIRES_GRACE_MS
  if not expires_s and same then
    ends = math.max(ends, before.e)
  end
  local agent, transport = clean(told.user_agent, PHONE_TEXT_MAX), clean(told.transport, 8)
  redis.call('HSET', key, told.name, cmsgpack.pack({
    c = clean(told.contact, PHONE_TEXT_MAX),
    ua = agent == '' and same and before.ua or agent,
    tr = transport == '' and same and before.tr or transport,
    t = before and before.e > now and before.t or now,
    e = ends,
  }))
  redis.call('ZADD', P .. ':at:' .. told.name, string.format('%.0f', ends), node)
end

-- registered: KEYS P; ARGV node epoch msgpack: list of {name, contact, expires_s, user_agent,
-- transport}, or {name, contact, gone = true}, in the order in which they happened. Repeatable.
redis.register_function('registered', function(keys, args)
  local P, node = keys[1], args[1]
  local stale = fenced(P, node, args[2])
  if stale then
    return stale
  end
  local now = now_ms()
  for _, told in ipairs(cmsgpack.unpack(args[3])) do
    if not told.gone then
      register(P, node, now, told)
    else
      local raw = redis.call('HGET', P .. ':regs:' .. node, told.name)
      -- The end of a contact that another one has replaced is no end of the phone.
      if raw and cmsgpack.unpack(raw).c == clean(told.contact, PHONE_TEXT_MAX) then
        leave(P, node, told.name)
      end
    end
  end
  count_phones(P, node)
  return redis.status_reply('OK')
end)

-- reregister: KEYS P; ARGV node epoch msgpack: the node's whole list of {name, contact, ...}.
-- Makes the picture equal to it. Returns how many registrations it removed.
redis.register_function('reregister', function(keys, args)
  local P, node = keys[1], args[1]
  local stale = fenced(P, node, args[2])
  if stale then
    return stale
  end
  local now, present, removed = now_ms(), {}, 0
  for _, told in ipairs(cmsgpack.unpack(args[3])) do
    present[told.name] = true
    register(P, node, now, told)
  end
  for _, phone in ipairs(redis.call('HKEYS', P .. ':regs:' .. node)) do
    if not present[phone] then
      leave(P, node, phone)
      removed = removed + 1
    end
  end
  count_phones(P, node)
  return removed
end)

-- registrations: KEYS P; ARGV phone... (none: all). Returns node, phone, msgpack, ... of what has
-- not ended.
redis.register_function {
  function_name = 'registrations',
  flags = { 'no-writes' },
  callback = function(keys, args)
    local P, now, out = keys[1], now_ms(), {}
    local function put(node, phone, raw)
      if raw and cmsgpack.unpack(raw).e > now then
        out[#out + 1], out[#out + 2], out[#out + 3] = node, phone, raw
      end
    end
    if #args == 0 then
      for _, node in ipairs(redis.call('SMEMBERS', P .. ':nodes')) do
        local all = redis.call('HGETALL', P .. ':regs:' .. node)
        for i = 1, #all, 2 do
          put(node, all[i], all[i + 1])
        end
      end
    end
    for _, phone in ipairs(args) do
      for _, node in ipairs(redis.call('ZREVRANGE', P .. ':at:' .. phone, 0, -1)) do
        put(node, phone, redis.call('HGET', P .. ':regs:' .. node, phone))
      end
    end
    return out
  end,
}

-- phone_counts: KEYS P; ARGV node... Returns for each how many phones are registered there, as last
-- told or compared.
redis.register_function {
  function_name = 'phone_counts',
  flags = { 'no-writes' },
  callback = function(keys, args)
    local out = {}
    for i, name in ipairs(args) do
      out[i] = redis.call('HLEN', keys[1] .. ':regs:' .. name)
    end
    return out
  end,
}
