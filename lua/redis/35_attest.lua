-- What a call's media was found to be (controller/media/policy.py decides, the driver writes). It is
-- the field `sec` of the call's record:
--   v a why t   verdict, action (none alarm hangup), reason, ms since which it stands so
--   legs        list of {leg, enc, suite, tls, peer, t}; no key is ever among them
--   packets     what the node's agent saw on the wire, set by `packets`
-- P:look:N      list, "KEY PORT" for the agent of N to look at, short-lived
-- P:seen:N      list, "PORT PBX_ID" of what the agent of N saw in clear, short-lived
-- P:alarms      list, newest first, msgpack {kind, node, call, reason, t}

local ALARMS_MAX = 500
local REASON_MAX = 256
local LOOKS_MAX = 64
local LOOKS_AT_ONCE = 8
local LOOK_KEEP_MS = 10000
local WIRES = { ['clear'] = true, ['encrypted'] = true, ['not checked'] = true }

local function alarm(P, kind, name, key, reason, now)
  redis.call('LPUSH', P .. ':alarms', cmsgpack.pack({
    kind = kind, node = name, call = key, reason = clean(reason, REASON_MAX), t = now,
  }))
  redis.call('LTRIM', P .. ':alarms', 0, ALARMS_MAX - 1)
  redis.call('HINCRBY', P .. ':stats', 'alarm:' .. kind, 1)
end

-- attest: KEYS P; ARGV node epoch pbx_id msgpack {v, a, why, legs} port... Ports are what the node's
-- agent is to look at. Repeatable: only a change of
-- verdict or action raises an alarm again. Returns 1, or 0 when the node has no such call.
redis.register_function('attest', function(keys, args)
  local P, name, now = keys[1], args[1], now_ms()
  local stale = fenced(P, name, args[2])
  if stale then
    return stale
  end
  local key = redis.call('HGET', P .. ':live:' .. name, args[3])
  local call = key and read_call(P, key)
  if not call then
    return 0
  end
  local told, before = cmsgpack.unpack(args[4]), call.sec or {}
  for _, leg in ipairs(told.legs) do
    leg.leg, leg.suite, leg.peer, leg.t = clean(leg.leg), clean(leg.suite), clean(leg.peer), now
  end
  if told.a ~= 'none' and (before.v ~= told.v or before.a ~= told.a) then
    alarm(P, 'media', name, key, told.why, now)
  end
  call.sec = {
    v = told.v, a = told.a, why = clean(told.why, REASON_MAX), t = now, legs = told.legs,
    packets = before.packets,
  }
  write_call(P, key, call, LIVE_KEEP_MS)
  for i = 5, #args do
    redis.call('LPUSH', P .. ':look:' .. name, key .. ' ' .. args[i])
  end
  if #args > 4 then
    redis.call('LTRIM', P .. ':look:' .. name, 0, LOOKS_MAX - 1)
    redis.call('PEXPIRE', P .. ':look:' .. name, LOOK_KEEP_MS)
  end
  return 1
end)

-- looks: KEYS P; ARGV node. Takes the newest things to look at. Returns call key, port, ...
redis.register_function('looks', function(keys, args)
  local out = {}
  for _ = 1, LOOKS_AT_ONCE do
    local each = redis.call('LPOP', keys[1] .. ':look:' .. args[1])
    if not each then
      break
    end
    out[#out + 1], out[#out + 2] = string.match(each, '^(%x+) (%d+)$')
  end
  return out
end)

-- looked: KEYS P; ARGV node key wire reason port. The agent's own word on a call of its node. It has
-- no lease, so it changes nothing but `packets`, and clear stays clear; the driver is told.
redis.register_function('looked', function(keys, args)
  local P, name, key, wire, now = keys[1], args[1], args[2], args[3], now_ms()
  local call = read_call(P, key)
  if not call or call.n ~= name or not call.sec or not WIRES[wire] then
    return 0
  end
  if call.sec.packets ~= 'clear' and not (wire == 'not checked' and call.sec.packets) then
    call.sec.packets = wire
    write_call(P, key, call, call.s == 'ended' and ENDED_KEEP_MS or LIVE_KEEP_MS)
    if wire == 'clear' then
      alarm(P, 'packets', name, key, args[4], now)
    end
  end
  if wire == 'clear' and call.pbx then
    local seen = P .. ':seen:' .. name
    redis.call('LPUSH', seen, args[5] .. ' ' .. call.pbx)
    redis.call('LTRIM', seen, 0, LOOKS_MAX - 1)
    redis.call('PEXPIRE', seen, LOOK_KEEP_MS)
  end
  return 1
end)

-- seen: KEYS P; ARGV node epoch. Takes what the node's agent saw in clear. Returns port, pbx_id, ...
redis.register_function('seen', function(keys, args)
  local stale = fenced(keys[1], args[1], args[2])
  if stale then
    return stale
  end
  local out = {}
  for _ = 1, LOOKS_AT_ONCE do
    local each = redis.call('LPOP', keys[1] .. ':seen:' .. args[1])
    if not each then
      break
    end
    out[#out + 1], out[#out + 2] = string.match(each, '^(%d*) (.*)$')
  end
  return out
end)

-- lenient: KEYS P; ARGV region... Names of the phones whose policy is `prefer`.
redis.register_function {
  function_name = 'lenient',
  flags = { 'no-writes' },
  callback = function(keys, args)
    local out = {}
    for _, region in ipairs(args) do
      for _, blob in ipairs(redis.call('HVALS', keys[1] .. ':phones:' .. region)) do
        local phone = cmsgpack.unpack(blob)
        if phone.policy == 'prefer' then
          out[#out + 1] = phone.name
        end
      end
    end
    return out
  end,
}

-- alarms: KEYS P; ARGV limit. Returns msgpack alarms, newest first.
redis.register_function {
  function_name = 'alarms',
  flags = { 'no-writes' },
  callback = function(keys, args)
    return redis.call('LRANGE', keys[1] .. ':alarms', 0, tonumber(args[1]) - 1)
  end,
}
