-- The choice of a node for one call, among those in order (12_order.lua). Writes nothing to Redis.

-- The least loaded node decides in most cases; what is looked at besides, when it does not.
local LOOK_MAX = 32
local CANDIDATES = 4
local RAMP_RATE_FLOOR = 2
local PEER_RATE_SHARE = 1.1

-- A node that came back may not draw more arrivals than the peer that would get the call
-- otherwise: idle, it looks best to every call at once.
local function throttled(node, peer, pol, now)
  if ramp_share(node, pol, now) >= 1 then
    return false
  end
  local peer_rate = peer and decayed_rate(peer, now) or math.huge
  return decayed_rate(node, now) >= max(RAMP_RATE_FLOOR, PEER_RATE_SHARE * peer_rate)
end

-- Takes the unfit off the top of the order, until the first there is fit. Each is taken off once per
-- change of a node, so the cost does not grow with nodes.
local function first_fit(order, pol, now)
  local node = order.nodes[1]
  while node do
    local reason = unfit(node, pol, now)
    if not reason or reason == 'settling' then
      return node, reason
    end
    take_out(order, node)
    node = order.nodes[1]
  end
end

local function can_take(P, node, share, tried, now)
  if tried[node.name] then
    return false
  elseif not has_room(node, share, now) then
    count_calls(P, node, now)
    return has_room(node, share, now)
  end
  return true
end

-- As the next in order, in a reason: one without a load is none.
local function named(node, load)
  if node and load < LAST then
    return node, load
  end
end

-- The fit nodes among the region's least loaded, best first: all that are ramping up, at most
-- CANDIDATES, and the first that is not; and the node after these in order, with its load.
local function candidates(P, order, pol, now, share, tried)
  local found, passed = {}, {}
  local node, settles = first_fit(order, pol, now)
  while node and #passed < LOOK_MAX do
    local ranked = order.loads[1] < LAST
    take_out(order, node)
    passed[#passed + 1] = node
    if not settles and can_take(P, node, share, tried, now) then
      node.load = load_of(node, pol, now)
      found[#found + 1] = node
      if #found > CANDIDATES or ranked and ramp_share(node, pol, now) >= 1 then
        break
      end
    end
    node, settles = first_fit(order, pol, now)
  end
  local after, after_load = named(order.nodes[1], order.loads[1])
  for _, each in ipairs(passed) do
    put_in(order, each, rank_of(each, pol, now))
  end
  return found, after, after_load
end

-- Fit, and not ramping up: what most nodes are.
local function steady(node, pol, now)
  return node.sound and now - node.seen <= pol.silent_ms and now >= node.hold
    and now - node.since >= pol.ramp_ms
end

-- The region's best, and the one that the reason compares it with: the next in order, or the one
-- that would have the call were nobody ramping up, which is then said by the last value.
local function best_of(P, order, pol, now, share, tried)
  local node = order.nodes[1]
  if not node then
    return nil
  end
  -- Most often the first is the best, and in its place by the load that it has.
  if order.loads[1] < LAST and steady(node, pol, now) and not tried[node.name]
    and has_room(node, share, now) then
    node.load = node.rate_max and load_of(node, pol, now) or order.loads[1]
    return node, named(second(order))
  end
  local found, after, after_load = candidates(P, order, pol, now, share, tried)
  -- The last of `found` is the peer that the ramping ones are measured by.
  local best, other = found[#found], found[1]
  for i = 1, #found - 1 do
    if not throttled(found[i], best, pol, now) then
      best, other = found[i], found[i + 1]
      break
    end
  end
  if best and other.load < best.load then
    return best, other, other.load, true
  end
  return best, after, after_load
end

-- Printing a number costs as much as a command of Redis; those that reasons have are few.
local WORDED_MAX = 10000

local integers, hundredths = {}, {}

local function worded(words, form, key, number)
  local text = format(form, number)
  words[key] = key <= WORDED_MAX and text or nil
  return text
end

local function worded_integer(number)
  return integers[number] or worded(integers, '%d', number, number)
end

local function worded_load(load)
  local key = load * 100 + 0.5
  key = key - key % 1
  return hundredths[key] or worded(hundredths, '%.2f', key, load)
end

-- The node for a call, with the reason in words; or nil and why there is none, and whether the
-- picture knows of none at all. The last value: the node is of a region that is not the first.
local function choose(P, memory, pol, now, regions, share, tried)
  local orders, pick, after, after_load, ramps, spilled = memory.orders, nil, nil, nil, nil, nil
  for i = 1, #regions do
    local best, next_best, next_load, ramping =
      best_of(P, orders[regions[i]] or order_of(memory, regions[i]), pol, now, share, tried)
    if best and (not pick or best.load < pick.load) then
      pick, after, after_load, ramps, spilled = best, next_best, next_load, ramping, i > 1
    end
    if pick and pick.load <= pol.spill_above then
      break
    end
  end
  if not pick then
    local full = 0
    for _, region in ipairs(regions) do
      full = full + order_of(memory, region).full
    end
    local where = table.concat(regions, ', ')
    if full > 0 then
      return nil, format('%d node(s) of %s full, no other fit', full, where)
    end
    return nil, 'no node of ' .. where .. ' is fit', next(tried) == nil
  end
  local why = 'least load ' .. worded_load(pick.load) .. ' in ' .. pick.region .. ', calls '
    .. worded_integer(pick.live) .. '+' .. worded_integer(pick.reserved) .. ' of '
    .. worded_integer(pick.calls_max)
    .. (after and '; next ' .. after.name .. ' ' .. worded_load(after_load) or '')
  if spilled or ramps then
    why = (spilled and 'spilled from ' .. regions[1] .. ': ' or '') .. why
      .. (ramps and ' (ramping up)' or '')
  end
  return pick, why, false, spilled
end

-- The node on which the called phone is registered, the latest registration first: with its reason
-- in words; or nil and why it cannot be called there; or nothing for a number that is no phone
-- registered anywhere. P:at:PHONE is written by 50_phones.lua.
local function home(P, memory, pol, now, callee, share, tried)
  local why
  local at = redis_call('ZREVRANGE', P .. ':at:' .. callee, 0, CANDIDATES - 1, 'WITHSCORES')
  for i = 1, #at, 2 do
    local node = tonumber(at[i + 1]) > now and memory.nodes[at[i]]
    if node then
      count_calls(P, node, now)
      -- No other node can ring it.
      local reason = tried[node.name] and 'asked already' or unfit(node, pol, now)
        or not has_room(node, share, now) and 'full'
      if not reason then
        return node, format(
          'the phone is registered on %s, calls %d+%d of %d', node.name, node.live, node.reserved,
          node.calls_max)
      end
      why = format('the phone is registered on %s, which is %s', node.name, reason)
    end
  end
  return nil, why
end
