-- Reservations: calls that were placed and do not show on their node yet. A node's are a queue in
-- memory, oldest first, which is the order in which they end:
--   first, last   where it begins and ends: at each place in between a placement
--   ends          placement -> ms at which it ends unconfirmed; of those that hold
--   count         how many hold
--   dropped       how many are out of the queue and still in Redis
--   key           of the queue in Redis
-- P:resv:queue:N has the same queue, for a library that takes the place of this one. A placement
-- that was confirmed or went elsewhere stays in it till its time: its call's record tells that it
-- holds no more.

-- The queue as Redis has it; and whether it is known: a role that may not read records takes each
-- placement for one that holds. Libraries of 0.1 had P:resv:N, a sorted set: what is in it goes first.
local function load_reserved(P, name)
  local pol, ends, known = policy(P), {}, true
  local all = redis_call('ZREVRANGE', P .. ':resv:' .. name, 0, -1)
  local queue = {
    first = 1, last = 0, ends = ends, count = 0, dropped = -#all, key = P .. ':resv:queue:' .. name,
  }
  for _, placement in ipairs(redis_call('LRANGE', queue.key, 0, -1)) do
    all[#all + 1] = placement
  end
  for place, placement in ipairs(all) do
    queue[place], queue.last = placement, place
    local raw = redis.pcall('GET', P .. ':call:' .. sub(placement, 1, 32))
    local whole, call = pcall(cmsgpack.unpack, raw or '')
    if type(raw) == 'table' then
      known, ends[placement], queue.count = false, math.huge, queue.count + 1
    elseif pol and whole and type(call) == 'table' and call.p == placement and call.s == 'reserved' then
      ends[placement], queue.count = (tonumber(call.t) or 0) + pol.reservation_ms, queue.count + 1
    end
  end
  return queue, known
end

local function reserved_of(P, name)
  local all = memory_of(P).reserved
  local queue, known = all[name], true
  if not queue then
    queue, known = load_reserved(P, name)
    all[name] = known and queue or nil
  end
  return queue
end

local function reserve(P, memory, name, placement, ends_ms)
  local queue = memory.reserved[name] or reserved_of(P, name)
  redis_call('RPUSH', queue.key, placement)
  local last = queue.last + 1
  queue.last, queue[last] = last, placement
  queue.ends[placement], queue.count = ends_ms, queue.count + 1
end

-- It was confirmed, or its node refused.
local function unreserve(P, name, placement)
  local queue = reserved_of(P, name)
  if queue.ends[placement] then
    queue.ends[placement], queue.count = nil, queue.count - 1
  end
end

-- Whether it holds.
local function is_reserved(P, name, placement, now)
  local ends_ms = reserved_of(P, name).ends[placement]
  return ends_ms and ends_ms > now
end

-- How many hold now. Those that end are taken off the queue, which costs each of them once.
local function count_reserved(P, name, now)
  local queue = reserved_of(P, name)
  local first, ends = queue.first, queue.ends
  while first <= queue.last do
    local placement = queue[first]
    local ends_ms = ends[placement]
    if ends_ms and ends_ms > now then
      break
    elseif ends_ms then
      ends[placement], queue.count = nil, queue.count - 1
    end
    queue[first] = nil
    first, queue.dropped = first + 1, queue.dropped + 1
  end
  queue.first = first
  return queue.count
end

-- Takes out of Redis what is out of the queue.
local function drop_ended(P, name)
  local queue = reserved_of(P, name)
  if queue.dropped > 0 then
    redis_call('LTRIM', queue.key, queue.dropped, -1)
    queue.dropped = 0
  end
end

-- A reservation past its end counts no more, though it may still be among the others.
local function count_calls(P, node, now)
  node.live = redis_call('HLEN', P .. ':live:' .. node.name)
  node.reserved = count_reserved(P, node.name, now)
end
