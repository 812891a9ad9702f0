-- An order: the nodes of one region that can take a call, the least loaded first. It is a heap in
-- which each place has four below it, so a node finds its place in five steps among a thousand.
--   nodes, loads   by place: the node and its load; node.at is its place, nil while it is in none
--   size           places taken
--   full           nodes of the region that could take calls, but are at their limit

local function new_order()
  return { nodes = {}, loads = {}, size = 0, full = 0 }
end

-- Puts the node at the place `at`, which is free, or as far up or down from it as its load belongs.
local function settle(order, at, node, load)
  local nodes, loads, size = order.nodes, order.loads, order.size
  while at > 1 do
    local above = at + 2
    above = (above - above % 4) / 4 -- as floor, without a call
    if loads[above] <= load then
      break
    end
    nodes[at], loads[at] = nodes[above], loads[above]
    nodes[at].at = at
    at = above
  end
  while 4 * at - 2 <= size do
    local below = 4 * at - 2
    local least, last = loads[below], below + 3
    if last > size then
      last = size
    end
    for other = below + 1, last do
      local its = loads[other]
      if its < least then
        below, least = other, its
      end
    end
    if least >= load then
      break
    end
    local node_below = nodes[below]
    nodes[at], loads[at], node_below.at = node_below, least, at
    at = below
  end
  nodes[at], loads[at], node.at = node, load, at
end

-- Puts the node in, or moves it to where its load belongs now.
local function put_in(order, node, load)
  if not node.at then
    order.size = order.size + 1
  end
  settle(order, node.at or order.size, node, load)
end

local function take_out(order, node)
  local at, size = node.at, order.size
  if at then
    local last, load = order.nodes[size], order.loads[size]
    order.nodes[size], order.loads[size], order.size, node.at = nil, nil, size - 1, nil
    if last ~= node then
      settle(order, at, last, load)
    end
  end
end

-- The least loaded node but for the first, and its load; or nil.
local function second(order)
  local loads, at = order.loads, 2
  for other = 3, order.size < 5 and order.size or 5 do
    if loads[other] < loads[at] then
      at = other
    end
  end
  return order.nodes[at], loads[at]
end
