-- Asks the agent on loopback whether this call is recorded, and begins. The agent has made the file
-- then, and takes away what it has sealed; of the answer only the recording's id is believed.
--   argv[1] this node, argv[2] the agent, as http://127.0.0.1:9450, argv[3] the node's folder of
--   recordings, argv[4] go_on or refuse: what becomes of the call when nobody answers
--   argv[5] the rate of the recording in Hz, argv[6] the service that the number plan has for the
--   call
--
-- mod_sndfile appends raw s16le; without enable_file_write_buffering=false FreeSWITCH would hold
-- back 64 KiB of it (switch_core_file.c).

local NODE, AGENT, FOLDER, UNABLE, RATE = argv[1], argv[2], argv[3], argv[4], argv[5]
local SERVICE = argv[6]

-- The agent reads so many characters and no more; of an address that is too long it reads nothing,
-- and a caller with a long Call-ID would go unrecorded.
local TEXT_MAX = 128

local function encoded(text)
  return (string.gsub(string.sub(text or '', 1, TEXT_MAX), '[^A-Za-z0-9._~-]', function(c)
    return string.format('%%%02X', string.byte(c))
  end))
end

local function run()
  if session:getVariable('pbxctl_recording') then
    return
  end
  local uuid = session:get_uuid()
  local url = string.format(
    '%s/record?node=%s&call=%s&pbx=%s&leg=%s&caller=%s&callee=%s&service=%s', AGENT, NODE,
    encoded(session:getVariable('sip_call_id') or uuid),
    encoded(session:getVariable('call_uuid') or uuid), uuid,
    encoded(session:getVariable('caller_id_number')),
    encoded(session:getVariable('destination_number')), SERVICE)
  local answer = freeswitch.API():execute('curl', url .. ' connect-timeout 1 timeout 1') or ''
  local verdict, recording = string.match(answer, '^([a-z_]+)|(%x*)|')
  if verdict == 'record' and #recording == 32 then
    local file = FOLDER .. '/' .. recording
    session:setVariable('pbxctl_recording', recording)
    session:setVariable('RECORD_STEREO', 'true')
    session:setVariable('RECORD_ANSWER_REQ', 'true')
    session:setVariable('record_sample_rate', RATE)
    session:setVariable('enable_file_write_buffering', 'false')
    session:setVariable('recording_follow_transfer', 'true')
    session:setVariable('api_on_record_stop',
      'lua ' .. string.gsub(argv[0] or '', 'record%.lua$', 'recorded.lua') .. ' ' .. file .. '.end')
    return session:execute('record_session', file .. '.raw')
  end
  if UNABLE == 'refuse' and verdict ~= 'go_on' then
    session:execute('respond', '503')
    session:hangup('NORMAL_TEMPORARY_FAILURE')
  end
end

run()
