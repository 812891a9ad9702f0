-- Reservations: calls that were placed and do not show on their node yet. A call's record, which is
-- written first, tells whether it holds one: it says reserved, and not for reservation_ms yet. Here
-- those of each node are counted, by the tenth of a second in which they were made:
--   slots  slot -> how many hold; it has none of 0
--   first  no slot before it has any
--   count  how many hold in all
-- A slot ends as a whole, so a reservation holds for up to SLOT_MS longer than reservation_ms.

local SLOT_MS = 100

local function slot_of(ms)
  return (ms - ms % SLOT_MS) / SLOT_MS
end

-- The last slot that holds no more.
local function last_ended(pol, now)
  return slot_of(now - pol.reservation_ms) - 1
end

local function reserved_of(memory, name)
  local held = memory.reserved[name]
  if not held then
    held = { slots = {}, first = 0, count = 0 }
    memory.reserved[name] = held
  end
  return held
end

-- held: of a node. placed_ms: as the record has it.
local function reserve(held, placed_ms, count)
  local slots, slot = held.slots, (placed_ms - placed_ms % SLOT_MS) / SLOT_MS
  slots[slot] = (slots[slot] or 0) + count
  -- The clock may have been put back.
  if held.count == 0 or slot < held.first then
    held.first = slot
  end
  held.count = held.count + count
end

-- It was confirmed, or its node refused: to be called once, when the record says so.
local function unreserve(memory, name, placed_ms)
  local held, slot = reserved_of(memory, name), slot_of(placed_ms)
  local count = held.slots[slot]
  if count then
    held.slots[slot] = count > 1 and count - 1 or nil
    held.count = held.count - 1
  end
end

-- Whether a call's placement holds still.
local function is_reserved(memory, call, pol, now)
  if call.s ~= 'reserved' then
    return false
  end
  local slot = slot_of(call.t)
  return reserved_of(memory, call.n).slots[slot] and slot > last_ended(pol, now)
end

-- How many hold now.
local function count_reserved(memory, name, pol, now)
  local held = reserved_of(memory, name)
  local slots, slot, last = held.slots, held.first, last_ended(pol, now)
  while held.count > 0 and slot <= last do
    held.count = held.count - (slots[slot] or 0)
    slots[slot] = nil
    slot = slot + 1
  end
  held.first = slot
  return held.count
end

local function count_calls(P, node, now)
  local pol = policy(P)
  node.live = redis_call('HLEN', P .. ':live:' .. node.name)
  node.reserved = pol and count_reserved(memory_of(P), node.name, pol, now) or 0
end
