-- A call of an edge's caller or of a phone: asks the agent on loopback where it goes, and sends it
-- there. A phone that is registered here is rung without asking.
--   argv[1] this node, argv[2] its region, argv[3] the agent, as http://127.0.0.1:9450
--   argv[4] transport of trunks (udp, tls), argv[5] rtp_secure_media of their legs (plain: none)
--   argv[6] the domain of the phones here, for a call of one of them
--
-- mod_curl counts its time limit in whole seconds. The agent answers within its own deadline
-- (200 ms); the 1 s here is for an agent that hangs. One that is down refuses at once.
-- A node that says nothing, not even 100, is given up after timer-T1X64 of the profile `pbxctl`,
-- before its reservation ends; leg_progress_timeout would also end calls that ring late.
-- What callers sent goes out percent-encoded; the number is checked before it is dialled.

local NODE, REGION, AGENT, DOMAIN = argv[1], argv[2], argv[3], argv[6]
local TO = argv[4] == 'tls' and ';transport=tls' or ''
-- Without the first variable FreeSWITCH offers RTP/AVP beside RTP/SAVP; without the second it takes
-- any a=fingerprint of an answer for encryption.
local SECURE = argv[5] ~= 'plain'
  and ',sdp_secure_savp_only=true,webrtc_enable_dtls=false,rtp_secure_media=' .. argv[5] or ''
local TRIES_MAX = 3
-- The agent refuses a longer Call-ID or tag, which a phone must not be able to take for no agent at all.
local CALL_ID_MAX, TAG_MAX, NUMBER_MAX = 256, 128, 128

-- Answers of a node after which another one may do better, silence among them (408); causes, where
-- none was asked. Not the causes of answers: 480 and 408 share one. Busy, an unknown number and the
-- like are the caller's answer.
local ELSEWHERE = {
  ['sip:302'] = true, ['sip:408'] = true, ['sip:500'] = true, ['sip:502'] = true,
  ['sip:503'] = true, ['sip:504'] = true,
  NORMAL_TEMPORARY_FAILURE = true, RECOVERY_ON_TIMER_EXPIRE = true, NETWORK_OUT_OF_ORDER = true,
  DESTINATION_OUT_OF_ORDER = true, SWITCH_CONGESTION = true, NORMAL_CIRCUIT_CONGESTION = true,
  PROGRESS_TIMEOUT = true, GATEWAY_DOWN = true, SERVICE_UNAVAILABLE = true,
  REQUESTED_CHAN_UNAVAIL = true,
}
local ANSWER = 'last_bridge_proto_specific_hangup_cause'

local function encoded(text)
  return (string.gsub(text or '', '[^A-Za-z0-9._~-]', function(c)
    return string.format('%%%02X', string.byte(c))
  end))
end

local function call_id()
  return session:getVariable('sip_call_id') or session:get_uuid()
end

-- A caller may begin several calls with one Call-ID.
local function from_tag()
  return session:getVariable('sip_from_tag') or ''
end

local function ask(api, failed)
  local url = string.format(
    '%s/route?node=%s&region=%s&call=%s&tag=%s&caller=%s&callee=%s&failed=%s', AGENT, NODE, REGION,
    encoded(call_id()), encoded(from_tag()), encoded(session:getVariable('caller_id_number')),
    encoded(session:getVariable('destination_number')), encoded(failed))
  local answer = api:execute('curl', url .. ' connect-timeout 1 timeout 1') or ''
  local verdict, node, address, placement, cause =
    string.match(answer, '^(%a+)|([a-z0-9.-]*)|([%w.:%[%]-]*)|([%w-]*)|(%d*)|')
  if verdict == 'place' and placement ~= '' and #placement <= 40 then
    return node, address, placement
  end
  -- Without an agent an edge refuses; a phone looks for the other phone at every node.
  if verdict == 'search' or DOMAIN and not verdict then
    return nil, 'search'
  end
  return nil, cause and string.match(cause, '^[4-6]%d%d$') or '503'
end

local function refuse(cause)
  session:execute('respond', cause)
  session:hangup()
end

local function run()
  local number = session:getVariable('destination_number') or ''
  if not string.match(number, '^[0-9+*#]+$') then
    return refuse('404')
  end
  if #call_id() > CALL_ID_MAX or #from_tag() > TAG_MAX or #number > NUMBER_MAX then
    return refuse('400')
  end
  -- A caller's own X- headers are not handed on.
  session:setVariable('sip_copy_custom_headers', 'false')
  session:setVariable('continue_on_fail', 'true')
  session:setVariable('hangup_after_bridge', 'true')
  local api, failed = freeswitch.API(), ''
  if DOMAIN then
    local contact = api:execute('sofia_contact', '*/' .. number .. '@' .. DOMAIN) or ''
    if string.match(contact, '^sofia/') then
      return session:transfer(number, 'XML', 'pbxctl-here')
    end
  end
  for _ = 1, TRIES_MAX do
    local node, address_or_cause, placement = ask(api, failed)
    if address_or_cause == 'search' then
      return session:transfer(number, 'XML', 'pbxctl-alone')
    elseif not node then
      return refuse(address_or_cause)
    end
    if node == NODE then
      session:execute('export', 'pbxctl_placement=' .. placement)
      return session:transfer(number, 'XML', 'pbxctl-services')
    end
    session:execute('unset', ANSWER) -- of the node before
    -- FreeSWITCH would go wherever a node redirects, and for ever round in a circle.
    session:execute('bridge', string.format(
      '{sip_h_X-Pbxctl-Placement=%s,outbound_redirect_fatal=true%s}sofia/pbxctl/%s@%s%s',
      placement, SECURE, number, address_or_cause, TO))
    local cause = session:getVariable('originate_disposition')
    if not session:ready() then
      return
    end
    if not ELSEWHERE[session:getVariable(ANSWER) or cause] then
      return session:hangup(cause)
    end
    failed = placement
  end
  refuse('503')
end

run()
