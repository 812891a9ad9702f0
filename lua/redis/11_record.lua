-- A call's record, msgpack, at P:call:KEY; KEY = the first 32 digits of SHA-1 of the call id. Its
-- placement ids are KEY-1, KEY-2, … so that both names lead to the one record. Fields:
--   id n p s  call id, node, placement, state (reserved live ended)
--   r from to pri svc  region asked from, caller, callee, priority, service
--   t why x  ms placed, the reason, nodes tried without success
--   pbx ts ta te cause  set as the node shows the call, answers it, ends it

local TEXT_MAX = 128
local PRINTABLE = '^[\32-\126]*$'
-- Redis reads text faster than it prints a number.
local RESERVED_KEEP_MS, LIVE_KEEP_MS, ENDED_KEEP_MS = '900000', '86400000', '900000'

local function call_key(call_id)
  return sub(sha1hex(call_id), 1, 32)
end

-- What phones sent may be any bytes; readers of the record get printable ASCII.
local function clean(text, length)
  text, length = text or '', length or TEXT_MAX
  if #text > length then
    text = sub(text, 1, length)
  end
  if find(text, PRINTABLE) then
    return text
  end
  return (string.gsub(text, '[^\32-\126]', '?'))
end

-- All of a new call's. Nearly always nothing is to be done, which one look at all of it tells.
local function clean_call(call_id, caller, callee, priority)
  local all = call_id .. caller .. callee .. priority
  if #all <= TEXT_MAX and find(all, PRINTABLE) then
    return call_id, caller, callee, priority
  end
  return clean(call_id, 2 * TEXT_MAX), clean(caller), clean(callee), clean(priority)
end

local function read_call(P, key)
  local raw = redis_call('GET', P .. ':call:' .. key)
  return raw and cmsgpack.unpack(raw) or nil
end

local function write_call(P, key, call, keep_ms)
  redis_call('SET', P .. ':call:' .. key, cmsgpack.pack(call), 'PX', keep_ms)
end

-- What stands before a text of that many bytes in msgpack.
local text_heads = {}

local function text_head(length)
  local head = length < 32 and string.char(160 + length) or length < 256
    and '\217' .. string.char(length) or '\218' .. string.char(floor(length / 256), length % 256)
  text_heads[length] = head
  return head
end

-- The time of the last record: at many calls a second most have that of the one before.
local stamped_ms, stamp

-- A new call's record, as cmsgpack.pack would write it of a table, at a third of the price.
local function new_record(id, node, placement, region, from, to, priority, service, now, why)
  local heads = text_heads
  if now ~= stamped_ms then
    stamped_ms, stamp = now, '\161t\207' .. packed_integer('>I8', now)
  end
  return '\139\162id' .. (heads[#id] or text_head(#id)) .. id
    .. '\161n' .. (heads[#node] or text_head(#node)) .. node
    .. '\161s\168reserved\161p' .. (heads[#placement] or text_head(#placement)) .. placement
    .. '\161r' .. (heads[#region] or text_head(#region)) .. region
    .. '\164from' .. (heads[#from] or text_head(#from)) .. from
    .. '\162to' .. (heads[#to] or text_head(#to)) .. to
    .. '\163pri' .. (heads[#priority] or text_head(#priority)) .. priority
    .. '\163svc' .. (heads[#service] or text_head(#service)) .. service
    .. '\163why' .. (heads[#why] or text_head(#why)) .. why
    .. stamp
end

-- Writes the record unless there is one, and returns that one.
local function add_call(P, key, record)
  local raw = redis_call('SET', P .. ':call:' .. key, record, 'NX', 'GET', 'PX', RESERVED_KEEP_MS)
  return raw and cmsgpack.unpack(raw) or nil
end
