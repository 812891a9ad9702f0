-- Placement.

local TRIES_MAX = 8
-- Temporarily Unavailable: the phone's own answer, so that no edge tries other nodes for it.
local SIP_UNAVAILABLE = 480
local NONE = {}

-- The number plan's entry with the longest prefix of `callee`, or an empty one.
local function planned(pol, callee)
  local digits = match(callee, '^%+?%d+') or ''
  for length = min(#digits, pol.longest), 1, -1 do
    local entry = pol.numbers[sub(digits, 1, length)]
    if entry then
      return entry
    end
  end
  return NONE
end

-- Of its parts only the last, the reason, can have a bar in it.
local function answer(node, placement, service, why)
  return node.told .. placement .. '|||' .. service .. '|' .. why
end

-- blind: the picture is empty, late or settling, so it knows no better than the caller's own list.
local function reject(memory, pol, reason, kind, dry, blind, cause)
  if not dry then
    count_stat(memory, 'reject:' .. kind)
  end
  cause = cause or pol and pol.reject_cause or 503
  local after = pol and pol.retry_after_s or 4
  local verdict = blind and 'blind' or 'reject'
  return verdict .. '||||' .. cause .. '|' .. after .. '||' .. reason
end

-- The answer given before, while it still stands; after that the call is placed anew.
local function standing(memory, call, now)
  local holds = call.s == 'live' or is_reserved(memory, call, memory.policy, now)
  local node = holds and memory.nodes[call.n]
  return node and answer(node, call.p, call.svc or '', call.why)
end

-- What keeps every call of that region from being placed, or nil.
local function refused(pol, memory, region, now, dry)
  if not pol then
    return reject(memory, nil, 'the fleet is not known yet', 'unknown fleet', dry, true)
  elseif not pol.regions[region] then
    return reject(memory, pol, 'there is no such region', 'unknown region', dry)
  elseif now < memory.settles_ms then
    return reject(
      memory, pol, 'Redis took over, or lost its functions, and settles', 'settling', dry, true)
  end
end

-- The node for a call, the reason and whether it is a spill; or nil, and what reject wants to know.
local function decide(P, memory, pol, now, region, callee, priority, entry, tried)
  local share = pol.admit[priority] or pol.admit.normal
  if any(memory.phones) and (entry.service or 'phone') == 'phone' and callee ~= '' then
    local node, why = home(P, memory, pol, now, callee, share, tried)
    if node or why then
      return node, why, false, 'phone', false, SIP_UNAVAILABLE
    end
  end
  local order = entry.regions and #entry.regions > 0 and entry.regions or pol.order[region]
  local node, why, blind, spilled = choose(P, memory, pol, now, order, share, tried)
  return node, why, spilled, blind and 'no node fit' or 'no room', blind
end

local function next_placement(key, before)
  return key .. '-' .. (tonumber(match(before.p, '%-(%d+)$') or 0) % 999 + 1)
end

-- Nodes that had the call before, and refused it as `failed` says, or nil when that is not what
-- stands. Takes the reservation back.
local function tried_before(P, memory, key, before, failed, now, dry)
  if failed == '' or not before or before.p ~= failed then
    return nil
  end
  local tried = {}
  for _, name in ipairs(before.x or {}) do
    tried[name] = true
  end
  tried[before.n] = true
  if not dry and before.s == 'reserved' then
    before.s, before.te = 'ended', now
    clean_call(before)
    write_call(P, key, before, ENDED_KEEP_MS)
    unreserve(memory, before.n, before.t)
    recount(P, before.n, now)
  end
  return tried
end

local function names_of(set)
  local names = {}
  for name in pairs(set) do
    names[#names + 1] = name
  end
  return names
end

-- Most calls are asked for once: so the record is written as if there was none, and only the one
-- that stands in its way is read. key: where that of another call with the same Call-ID does.
local function route(P, args, dry, key)
  local call_id, region, caller, callee = args[1], args[2], args[3] or '', args[4] or ''
  local asked_priority, failed = args[5] or '', args[6] or ''
  -- Kamailio's redis_cmd can not send an empty word before another one.
  if asked_priority == '-' then
    asked_priority = ''
  end
  if not call_id or call_id == '' then
    -- An edge's proxy asks without one, to see who is the primary: that is no call to be counted.
    return reject(memory_of(P), nil, 'the call has no id', 'malformed', dry or not call_id)
  end
  local memory, now = picture(P, dry)
  local pol = memory.policy or policy(P)
  local refusal = refused(pol, memory, region, now, dry)
  if refusal then
    return refusal
  end

  local first, tried, names, before = not key, NONE, nil, nil
  key = key or call_key(parted(call_id))
  if failed ~= '' or dry then
    before = read_call(P, key)
    if first and is_anothers(before, call_id) then
      return route(P, args, dry, call_key(call_id))
    end
    local refusing = tried_before(P, memory, key, before, failed, now, dry)
    if refusing then
      tried, names = refusing, names_of(refusing)
      if #names >= TRIES_MAX then
        return reject(memory, pol, 'refused by ' .. #names .. ' nodes', 'tries', dry)
      end
    else
      local same = before and standing(memory, before, now)
      if same then
        return same
      end
    end
  end

  local entry = pol.longest > 0 and planned(pol, callee) or NONE
  local priority = asked_priority ~= '' and asked_priority or entry.priority or 'normal'
  local node, why, spilled, kind, blind, cause = decide(
    P, memory, pol, now, region, callee, priority, entry, tried)
  if not node then
    local call = not before and read_call(P, key)
    if first and is_anothers(call, call_id) then
      return route(P, args, dry, call_key(call_id))
    end
    return call and standing(memory, call, now)
      or reject(memory, pol, why, kind, dry, blind, cause)
  end
  local placement = before and next_placement(key, before) or key .. '-1'
  local service = entry.service or ''
  if dry then
    return answer(node, placement, service, why)
  end
  local record = new_record(
    cut(call_id, ID_MAX), node.name, placement, region, cut(caller, TEXT_MAX),
    cut(callee, TEXT_MAX), cut(priority, TEXT_MAX), service, now, why)
  if not before then
    before = add_call(P, key, record)
    if first and is_anothers(before, call_id) then
      return route(P, args, dry, call_key(call_id))
    end
    local same = before and standing(memory, before, now)
    if same then
      return same
    end
  end
  if before then
    local call = cmsgpack.unpack(record)
    placement = next_placement(key, before)
    call.p, call.x = placement, names
    write_call(P, key, call, RESERVED_KEEP_MS)
  end
  reserve(node.held, now, 1)
  node.reserved = node.reserved + 1
  bump_rate(node, now)
  seat_fit(memory, node, pol, now)
  count_stat(memory, spilled and node.spill_stat or node.place_stat)
  return answer(node, placement, service, why)
end

-- place: KEYS P; ARGV call_id region caller callee priority failed_placement. call_id: of an INVITE
-- "CALL-ID;tag=TAG", the From tag. priority "" or "-" takes the number plan's. failed_placement: the
-- placement whose node refused or did not answer; only with it the call goes elsewhere. Returns a
-- line, verdict|node|address|placement|cause|retry_after_s|service|reason. verdict: place, reject, or
-- blind: ask your own list of nodes, refuse if that is empty.
redis.register_function('place', function(keys, args)
  return route(keys[1], args, false)
end)

local function parts(line)
  return { match(line, '^(%a+)|(.-)|(.-)|(.-)|(.-)|(.-)|(.-)|(.*)$') }
end

-- route: as place, but its answer is a list of the eight; Redis makes a line at a fifth of the price.
redis.register_function('route', function(keys, args)
  return parts(route(keys[1], args, false))
end)

-- route_dry: as route, but decides without placing.
redis.register_function {
  function_name = 'route_dry',
  flags = { 'no-writes' },
  callback = function(keys, args)
    return parts(route(keys[1], args, true))
  end,
}

-- A record as people may read it.
local function readable(raw)
  if raw and find(raw, 'reserved', 1, true) then
    local call = cmsgpack.unpack(raw)
    clean_call(call)
    return cmsgpack.pack(call)
  end
  return raw
end

-- call: KEYS P; ARGV id (call id, placement, or call key). Returns msgpack of the record or nil.
redis.register_function {
  function_name = 'call',
  flags = { 'no-writes' },
  callback = function(keys, args)
    bind()
    local id = args[1]
    local key = match(id, '^(%x+)%-%d+$') or match(id, '^%x+$')
    local raw = key and redis_call('GET', keys[1] .. ':call:' .. key)
    return readable(raw or redis_call('GET', keys[1] .. ':call:' .. call_key(id)))
  end,
}

-- stats: KEYS P. Returns a flat list: counter, value, ... since Redis has its data.
redis.register_function('stats', function(keys)
  flush_stats(keys[1])
  return redis_call('HGETALL', keys[1] .. ':stats')
end)
