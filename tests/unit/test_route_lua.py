"""lua/freeswitch/route.lua without a FreeSWITCH: what it makes of hostile texts and odd answers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from controller import resources

LUA = shutil.which("lua5.1") or shutil.which("lua")

pytestmark = pytest.mark.skipif(LUA is None, reason="no Lua on this machine")

#: as FreeSWITCH has it, telling what is done to the call; arguments: Call-ID, number, answer
STAGE = """
local CALL, NUMBER, ANSWER, script = arg[1], arg[2], arg[3], arg[4]
argv = {'n', 'east', 'http://127.0.0.1:1', 'udp', 'plain', 'phones.test'}
session = {
  getVariable = function(_, name)
    return ({sip_call_id = CALL, destination_number = NUMBER, caller_id_number = '1'})[name]
  end,
  setVariable = function() end,
  get_uuid = function() return 'uuid' end,
  ready = function() return true end,
  execute = function(_, application, data) print(application, data) end,
  transfer = function(_, _, _, context) print('transfer', context) end,
  hangup = function() end,
}
freeswitch = {API = function()
  return {execute = function(_, name)
    return name == 'curl' and ANSWER or ''
  end}
end}
dofile(script)
"""
REFUSED = "call and a known region are needed\n"


def done(call: str, number: str, answer: str) -> list[str]:
    """What becomes of a phone's call, by what its agent answers."""
    assert LUA
    script = resources.folder("lua") / "freeswitch" / "route.lua"
    command = [LUA, "-", call, number, answer, str(script)]
    ran = subprocess.run(command, input=STAGE, text=True, capture_output=True, check=True)
    return ran.stdout.replace("\t", " ").splitlines()


def test_without_an_agent_a_phone_looks_for_the_other_everywhere() -> None:
    assert done("c", "200", "") == ["transfer pbxctl-alone"]


@pytest.mark.parametrize(("call", "number"), [("c" * 257, "200"), ("c", "2" * 129)])
def test_what_the_agent_does_not_read_is_no_way_past_it(call: str, number: str) -> None:
    """Else a long Call-ID would spare a phone its placement, and whatever blocks it."""
    assert done(call, number, REFUSED) == ["respond 400"]
