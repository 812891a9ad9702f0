-- FreeSWITCH ended a recording in order: says so to the agent, which made this file for it.
--   argv[1] the recording's .end file

local note = io.open(argv[1], 'r+')
if note then
  note:write('1')
  note:close()
end
