-- Placement. A call's record lives at P:call:KEY, KEY = the first 32 digits of SHA-1 of the call
-- id; its placement ids are KEY-1, KEY-2, … so that both names lead to the one record. Fields:
--   id n p s  call id, node, placement, state (reserved live ended)
--   r from to pri svc  region asked from, caller, callee, priority, service
--   t why x  ms placed, the reason, nodes tried without success
--   pbx ts ta te cause  set as the node shows the call, answers it, ends it

-- The least loaded node decides in most cases; what is looked at besides, when it does not.
local LOOK_FIRST, LOOK_NEXT, LOOK_MAX = 2, 4, 32
local CANDIDATES = 4
local TRIES_MAX = 8
local TEXT_MAX = 128
local RESERVED_KEEP_MS = 900000
local RAMP_RATE_FLOOR = 2
local PEER_RATE_SHARE = 1.1
-- Temporarily Unavailable: the phone's own answer, so that no edge tries other nodes for it.
local SIP_UNAVAILABLE = 480

local function call_key(call_id)
  return string.sub(redis.sha1hex(call_id), 1, 32)
end

-- What phones sent may be any bytes; readers of the record get printable ASCII.
local function clean(text, length)
  text = string.sub(text or '', 1, length or TEXT_MAX)
  if string.find(text, '[^\32-\126]') then
    return (string.gsub(text, '[^\32-\126]', '?'))
  end
  return text
end

local function read_call(P, key)
  local raw = redis.call('GET', P .. ':call:' .. key)
  return raw and cmsgpack.unpack(raw) or nil
end

local function write_call(P, key, call, keep_ms)
  redis.call('SET', P .. ':call:' .. key, cmsgpack.pack(call), 'PX', keep_ms)
end

-- The number plan's entry with the longest prefix of `callee`, or an empty one.
local function planned(pol, callee)
  local digits = string.match(callee, '^%+?%d+') or ''
  for length = math.min(#digits, 19), 1, -1 do
    local entry = pol.numbers[string.sub(digits, 1, length)]
    if entry then
      return entry
    end
  end
  return {}
end

local function region_order(pol, region, entry)
  if entry.regions and #entry.regions > 0 then
    return entry.regions
  end
  local order = { region }
  for _, other in ipairs(pol.regions[region] or {}) do
    order[#order + 1] = other
  end
  return order
end

-- A node that came back may not draw more arrivals than the peer that would get the call
-- otherwise: idle, it looks best to every call at once.
local function throttled(node, peer, pol, now)
  if ramp_share(node, pol, now) >= 1 then
    return false
  end
  local peer_rate = peer and decayed_rate(peer, now) or math.huge
  return decayed_rate(node, now) >= math.max(RAMP_RATE_FLOOR, PEER_RATE_SHARE * peer_rate)
end

-- The fit nodes among the region's least loaded, best first: all that are ramping up, at most
-- CANDIDATES, and the first that is not. Drops the unfit from the index: each drop is paid once per
-- change of a node, so the cost does not grow with nodes.
local function candidates(P, region, pol, now, share, tried, dry)
  local index, found, from, look = P .. ':idx:' .. region, {}, 0, LOOK_FIRST
  repeat
    local dropped = 0
    local names = redis.call('ZRANGE', index, from, from + look - 1, 'WITHSCORES')
    for i = 1, #names, 2 do
      local name = names[i]
      local node = read_indexed(P, name)
      local reason = not node and 'unknown' or unfit(node, pol, now)
      if reason and reason ~= 'settling' then
        if not dry then
          redis.call('ZREM', index, name)
          if node then
            redis.call('HSET', P .. ':node:' .. name, 'place', '')
          end
          dropped = dropped + 1
        end
      elseif not reason and not tried[name] then
        if dry then
          node.live = redis.call('HLEN', P .. ':live:' .. name)
          node.reserved = redis.call('ZCOUNT', P .. ':resv:' .. name, now, '+inf')
        else
          count_calls(P, node)
          if not has_room(node, share, now) then
            expire_reservations(P, node, now)
          end
        end
        if has_room(node, share, now) then
          node.load = load_of(node, pol, now)
          node.after, node.after_score = names[i + 2], names[i + 3]
          found[#found + 1] = node
          if #found > CANDIDATES or ramp_share(node, pol, now) >= 1 then
            return found
          end
        end
      end
    end
    local last = #names < 2 * look
    from, look = from + look - dropped, LOOK_NEXT
  until last or from >= LOOK_MAX
  return found
end

-- The first that may have the call, and the one that would have it were nobody ramping up. The
-- last of `found` is the peer that the ramping ones are measured by.
local function best_of(found, pol, now)
  local peer = found[#found]
  for i = 1, #found - 1 do
    if not throttled(found[i], peer, pol, now) then
      return found[i], found[1 + i]
    end
  end
  return peer, found[1]
end

-- The node for a call, with the reason in words; or nil and why there is none.
local function choose(P, pol, now, order, share, tried, dry)
  local pick, other
  for i, region in ipairs(order) do
    local best, next_best = best_of(candidates(P, region, pol, now, share, tried, dry), pol, now)
    if best and (not pick or best.load < pick.load) then
      pick, other = best, next_best
      pick.spilled = i > 1
    end
    if pick and pick.load <= pol.spill_above then
      break
    end
  end
  if not pick then
    local full = 0
    for _, region in ipairs(order) do
      full = full + redis.call('SCARD', P .. ':full:' .. region)
    end
    local where = table.concat(order, ', ')
    if full > 0 then
      return nil, string.format('%d node(s) of %s full, no other fit', full, where)
    end
    return nil, 'no node of ' .. where .. ' is fit', next(tried) == nil
  end
  local spilled = pick.spilled and 'spilled from ' .. order[1] .. ': ' or ''
  local next_name, next_load, ramps = pick.after, nil, ''
  if other and other.load < pick.load then
    next_name, next_load, ramps = other.name, other.load, ' (ramping up)'
  elseif next_name then
    next_load = pick.after_score / SCORE
  end
  if not next_name then
    return pick, string.format('%sleast load %.2f in %s, calls %d+%d of %d', spilled, pick.load,
      pick.region, pick.live, pick.reserved, pick.calls_max)
  end
  return pick, string.format('%sleast load %.2f in %s, calls %d+%d of %d; next %s %.2f%s', spilled,
    pick.load, pick.region, pick.live, pick.reserved, pick.calls_max, next_name, next_load, ramps)
end

-- The node on which the called phone is registered, the latest registration first: with its reason
-- in words; or nil and why it cannot be called there; or nothing for a number that is no phone
-- registered anywhere. P:at:PHONE is written by 50_phones.lua.
local function home(P, pol, now, callee, share, tried, dry)
  local why
  local at = redis.call('ZREVRANGE', P .. ':at:' .. callee, 0, CANDIDATES - 1, 'WITHSCORES')
  for i = 1, #at, 2 do
    local node = tonumber(at[i + 1]) > now and not tried[at[i]] and read_node(P, at[i])
    if node then
      if dry then
        node.live = redis.call('HLEN', P .. ':live:' .. node.name)
        node.reserved = redis.call('ZCOUNT', P .. ':resv:' .. node.name, now, '+inf')
      else
        count_calls(P, node)
        expire_reservations(P, node, now)
      end
      local reason = unfit(node, pol, now) or not has_room(node, share, now) and 'full'
      if not reason then
        return node, string.format(
          'the phone is registered on %s, calls %d+%d of %d', node.name, node.live, node.reserved,
          node.calls_max)
      end
      why = string.format('the phone is registered on %s, which is %s', node.name, reason)
    end
  end
  return nil, why
end

local function answer(call, address)
  return { 'place', call.n, address, call.p, '', '', call.svc or '', call.why }
end

-- blind: the picture is empty, late or settling, so it knows no better than the caller's own list.
local function reject(P, pol, reason, kind, dry, blind, cause)
  if not dry then
    count_stat(P, 'reject:' .. kind)
  end
  cause = cause or pol and pol.reject_cause or 503
  local after = pol and pol.retry_after_s or 4
  local verdict = blind and 'blind' or 'reject'
  return { verdict, '', '', '', tostring(cause), tostring(after), '', reason }
end

-- The answer given before, while it still stands; after that the call is placed anew.
local function standing(P, call, now)
  if not call or call.s == 'ended' then
    return nil
  end
  local holds = call.s == 'live'
  if not holds then
    local ends = redis.call('ZSCORE', P .. ':resv:' .. call.n, call.p)
    holds = ends and tonumber(ends) > now
  end
  local address = holds and redis.call('HGET', P .. ':node:' .. call.n, 'address')
  return address and answer(call, address)
end

local function route(P, args, dry)
  local call_id, region, caller, callee = args[1], args[2], args[3] or '', args[4] or ''
  local asked_priority, failed = args[5] or '', args[6] or ''
  -- Kamailio's redis_cmd can not send an empty word before another one.
  if asked_priority == '-' then
    asked_priority = ''
  end
  if not call_id or call_id == '' then
    return reject(P, nil, 'the call has no id', 'malformed', dry)
  end
  local now = now_ms()
  local pol = policy(P, now)
  if not pol then
    return reject(P, nil, 'the fleet is not known yet', 'unknown fleet', dry, true)
  end
  if not pol.regions[region] then
    return reject(P, pol, 'there is no such region', 'unknown region', dry)
  end
  local _, settles_ms = server_of(P, pol, now)
  if now < settles_ms then
    return reject(P, pol, 'Redis took over from another server and settles', 'settling', dry, true)
  end

  local key = call_key(call_id)
  local before = read_call(P, key)
  local again = failed ~= '' and before and before.p == failed
  if not again then
    local same = standing(P, before, now)
    if same then
      return same
    end
  end

  local tried, tries = {}, 0
  if again then
    for _, name in ipairs(before.x or {}) do
      tried[name], tries = true, tries + 1
    end
    tried[before.n], tries = true, tries + 1
    if not dry and before.s == 'reserved' then
      redis.call('ZREM', P .. ':resv:' .. before.n, failed)
      recount(P, before.n, pol, now)
    end
    if tries >= TRIES_MAX then
      return reject(P, pol, 'refused by ' .. tries .. ' nodes', 'tries', dry)
    end
  end

  local entry = planned(pol, callee)
  local priority = asked_priority ~= '' and asked_priority or entry.priority or 'normal'
  local order = region_order(pol, region, entry)
  local share = pol.admit[priority] or pol.admit.normal
  local node, why, blind
  if (entry.service or 'phone') == 'phone' and callee ~= '' then
    node, why = home(P, pol, now, callee, share, tried, dry)
    if why and not node then
      return reject(P, pol, why, 'phone', dry, false, SIP_UNAVAILABLE)
    end
  end
  if not node then
    node, why, blind = choose(P, pol, now, order, share, tried, dry)
  end
  if not node then
    return reject(P, pol, why, blind and 'no node fit' or 'no room', dry, blind)
  end

  local attempt = before and tonumber(string.match(before.p, '%-(%d+)$') or 0) or 0
  local names = tries > 0 and {} or nil
  for name in pairs(tried) do
    names[#names + 1] = name
  end
  local call = {
    id = clean(call_id, 2 * TEXT_MAX), n = node.name, s = 'reserved',
    p = key .. '-' .. (attempt % 999 + 1), r = region,
    from = clean(caller), to = clean(callee),
    pri = priority, svc = entry.service, t = now, why = why, x = names,
  }
  if dry then
    return answer(call, node.address)
  end
  redis.call('ZADD', P .. ':resv:' .. node.name, now + pol.reservation_ms, call.p)
  write_call(P, key, call, RESERVED_KEEP_MS)
  node.reserved = node.reserved + 1
  bump_rate(P, node, now)
  refresh(P, node, pol, now)
  count_stat(P, (node.spilled and 'spill:' or 'place:') .. node.region)
  return answer(call, node.address)
end

-- route: KEYS P; ARGV call_id region caller callee priority failed_placement. priority "" or "-"
-- takes the number plan's. failed_placement: the placement whose node refused or did not answer;
-- only with it the call goes elsewhere. Returns 8 strings: verdict ("place",
-- "reject", "blind": ask your own list of nodes, refuse if that is empty), node, address,
-- placement, cause, retry_after_s, service, reason.
redis.register_function('route', function(keys, args)
  return route(keys[1], args, false)
end)

-- route_dry: as route, but decides without placing.
redis.register_function {
  function_name = 'route_dry',
  flags = { 'no-writes' },
  callback = function(keys, args)
    return route(keys[1], args, true)
  end,
}

-- call: KEYS P; ARGV id (call id, placement, or call key). Returns msgpack of the record or nil.
redis.register_function {
  function_name = 'call',
  flags = { 'no-writes' },
  callback = function(keys, args)
    local id = args[1]
    local key = string.match(id, '^(%x+)%-%d+$') or string.match(id, '^%x+$')
    local raw = key and redis.call('GET', keys[1] .. ':call:' .. key)
    return raw or redis.call('GET', keys[1] .. ':call:' .. call_key(id))
  end,
}

-- stats: KEYS P. Returns a flat list: counter, value, ... since Redis has its data.
redis.register_function('stats', function(keys)
  flush_stats(keys[1])
  return redis.call('HGETALL', keys[1] .. ':stats')
end)
