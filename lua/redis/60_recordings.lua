-- Recordings: what a person wants of one, and what the agent of its node has to say.
--   P:recask:N     list, JSON for the agent of N (controller/fleet/recordings.py), short-lived
--   P:result:ID    as in 40_leases.lua

local ASKS_MAX = 100
local ASK_KEEP_MS = 10000
local RESULT_KEEP_MS = 60000

-- record_ask: KEYS P; ARGV node body. Queues what is wanted; nobody repeats it once it is taken.
redis.register_function('record_ask', function(keys, args)
  local key = keys[1] .. ':recask:' .. args[1]
  redis.call('RPUSH', key, args[2])
  redis.call('LTRIM', key, -ASKS_MAX, -1)
  redis.call('PEXPIRE', key, ASK_KEEP_MS)
  return redis.status_reply('OK')
end)

-- record_take: KEYS P; ARGV node. Returns the oldest body, or nil.
redis.register_function('record_take', function(keys, args)
  return redis.call('LPOP', keys[1] .. ':recask:' .. args[1])
end)

-- record_told: KEYS P; ARGV id result(JSON). The agent's answer, for who waits for it.
redis.register_function('record_told', function(keys, args)
  local key = keys[1] .. ':result:' .. args[1]
  redis.call('RPUSH', key, args[2])
  redis.call('PEXPIRE', key, RESULT_KEEP_MS)
  return redis.status_reply('OK')
end)

-- record_alarm: KEYS P; ARGV node reason. Something about the node's recordings needs a person.
redis.register_function('record_alarm', function(keys, args)
  alarm(keys[1], 'recording', args[1], '', args[2], now_ms())
  return redis.status_reply('OK')
end)
