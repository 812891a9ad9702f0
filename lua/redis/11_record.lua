-- A call's record, msgpack, at P:call:KEY; KEY = the first 32 digits of SHA-1 of the Call-ID. Its
-- placement ids are KEY-1, KEY-2, … so that both names lead to the one record. A caller can begin
-- several calls with one Call-ID, and different From tags: edges say "CALL-ID;tag=TAG", and any but
-- the first has SHA-1 of that. Fields:
--   id tag n p s  Call-ID, From tag, node, placement, state (reserved live ended). While it is reserved,
--                 id has the tag too
--   r from to pri svc  region asked from, caller, callee, priority, service
--   t why x  ms placed, the reason, nodes tried without success
--   pbx ts ta te cause  set as the node shows the call, answers it, ends it

local TEXT_MAX, ID_MAX = 128, 400
local TAG = ';tag='
local PRINTABLE = '^[\32-\126]*$'
-- Redis reads text faster than it prints a number.
local RESERVED_KEEP_MS, LIVE_KEEP_MS, ENDED_KEEP_MS = '900000', '86400000', '900000'

local function call_key(call_id)
  return sub(sha1hex(call_id), 1, 32)
end

-- The Call-ID, and the tag if there is one.
local function parted(call_id)
  local at = find(call_id, TAG, 1, true)
  if at then
    return sub(call_id, 1, at - 1), sub(call_id, at + #TAG)
  end
  return call_id
end

local function cut(text, length)
  return #text > length and sub(text, 1, length) or text
end

-- What phones sent may be any bytes; who asks for a record gets printable ASCII.
local function clean(text, length)
  text = cut(text or '', length or TEXT_MAX)
  if find(text, PRINTABLE) then
    return text
  end
  return (string.gsub(text, '[^\32-\126]', '?'))
end

-- A placement cuts a call's texts and leaves them as they are; whoever reads one or takes it out of
-- its state `reserved` cleans them.
local function clean_call(call)
  local id, tag = parted(clean(call.id, ID_MAX))
  call.id, call.tag, call.pri = id, tag or call.tag, clean(call.pri)
  call.from, call.to = clean(call.from), clean(call.to)
end

-- Whether the record, if there is one, is of another call with the same Call-ID.
local function is_anothers(call, call_id)
  if not call then
    return false
  end
  local _, tag = parted(clean(call_id, ID_MAX))
  local _, its = parted(clean(call.id, ID_MAX))
  its = its or call.tag
  return tag and its and tag ~= its
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

-- A text as msgpack has it.
local function packed(text)
  return (text_heads[#text] or text_head(#text)) .. text
end

-- Of a new record, what few nodes, regions and services have in common, by its text.
local node_parts, region_parts, service_parts = {}, {}, {}

local function node_part(node)
  node_parts[node] = '\139\161n' .. packed(node) .. '\161s\168reserved\162id'
  return node_parts[node]
end

local function region_part(region)
  region_parts[region] = '\161r' .. packed(region) .. '\164from'
  return region_parts[region]
end

local function service_part(service)
  service_parts[service] = '\163svc' .. packed(service) .. '\163why'
  return service_parts[service]
end

-- A new call's record, as cmsgpack.pack would write it of a table, at a quarter of the price.
local function new_record(id, node, placement, region, from, to, priority, service, now, why)
  local heads = text_heads
  if now ~= stamped_ms then
    stamped_ms, stamp = now, '\161t\207' .. packed_integer('>I8', now)
  end
  return (node_parts[node] or node_part(node)) .. (heads[#id] or text_head(#id)) .. id
    .. '\161p' .. (heads[#placement] or text_head(#placement)) .. placement
    .. (region_parts[region] or region_part(region)) .. (heads[#from] or text_head(#from)) .. from
    .. '\162to' .. (heads[#to] or text_head(#to)) .. to
    .. '\163pri' .. (heads[#priority] or text_head(#priority)) .. priority
    .. (service_parts[service] or service_part(service)) .. (heads[#why] or text_head(#why)) .. why
    .. stamp
end

-- Writes the record unless there is one, and returns that one.
local function add_call(P, key, record)
  local raw = redis_call('SET', P .. ':call:' .. key, record, 'NX', 'GET', 'PX', RESERVED_KEEP_MS)
  return raw and cmsgpack.unpack(raw) or nil
end
