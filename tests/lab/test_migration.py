"""docs/migration.md, done: a PBX that carries calls by its own config joins a fleet, calls up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config import split_address
from controller.config_file import load
from controller.render.files import folder_of, render
from controller.render.write import write
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import REPOSITORY, LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.rendered import put_rendered, start_stunnel
from tests.lab.services import Program, Redis
from tests.lab.sip import answers_options
from tests.lab.sipp import Calls
from tests.lab.until import until

pytestmark = pytest.mark.lab
JOINED = ("pjsip", "manager", "extensions", "queues")
#: the operator's own number, from now on for the fleet to place
ASK = "\n[trunk]\nexten => 300,1,Goto(pbxctl-edge,9196,1)\n"


def pbxctl(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def answer(folder: Path, *argv: str) -> Any:
    ran = pbxctl(folder, *argv, "-o", "json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def begin(lab: Lab, node: Asterisk | FreeSwitch, **more: Any) -> Path:
    """Step 1: a config by `pbxctl init`, and what the page has added. The rest is the lab's."""
    folder = lab.run.folder / "office"
    folder.mkdir()
    kind = "asterisk" if isinstance(node, Asterisk) else "freeswitch"
    told = f"{node.name}={kind}:{node.address}@main"
    ran = pbxctl(folder, "init", "--fleet", "office", "--node", told)
    assert ran.returncode == 0, ran.stderr
    document = yaml.safe_load((folder / "pbxctl.yaml").read_text())
    document["nodes"][node.name] |= {"edge": True, **more}
    document |= {
        "media": {"peers": {"trunk": "prefer"}},
        "metrics": {"first_port": 0},
        "agent": {"host": lab.address()},
        "placement": {"ramp_s": 1},
    }
    (folder / "pbxctl.yaml").write_text(yaml.safe_dump(document))
    return folder


def join(folder: Path, node: Asterisk) -> None:
    """Step 2: the rendered files beside the PBX's own, an include line in four of those."""
    etc = node.folder / "etc"
    own = {path.name: path.read_text() for path in etc.iterdir() if path.is_file()}
    # Asterisk sees its files inside its chroot; else `pbxctl render NODE --into /etc/asterisk`.
    made = render(load(folder / "pbxctl.yaml"), node.name, Path(node.settings.home / "etc"))
    write(replace(made, folder=etc))
    assert own == {name: (etc / name).read_text() for name in own}, "the PBX's own stay as they are"
    for name in JOINED:
        with (etc / f"{name}.conf").open("a") as file:
            file.write(f"\n#include pbxctl-{name}.conf\n")
    with (etc / "extensions.conf").open("a") as file:
        file.write(ASK)
    node.cli("core reload")


@contextmanager
def control_plane(lab: Lab, folder: Path) -> Iterator[None]:
    """Step 4."""
    lab.program(
        "up",
        [sys.executable, "-m", "controller.cli", "--config", folder / "pbxctl.yaml", "up"],
        ready=(folder / "state" / "gate.sock").exists,
    )
    yield


def test_a_running_asterisk_joins(lab: Lab) -> None:
    node = lab.asterisk("ast1")
    before = lab.calls(node, count=1, hold_s=60)
    until(lambda: before.so_far().answered == 1, 5, "a call is up before")
    # The lab's own AMI user has the name that ours has by default.
    folder = begin(lab, node, user="fleet", folder=str(node.folder / "etc"))
    join(folder, node)
    check(lab, folder, node)
    still_up(before)


#: what of the operator's freeswitch.xml the rendered files are put before
INCLUDES = {
    "</profiles>\n</configuration>\n</section>": "pbxctl-profile.xml",
    '</section>\n<section name="directory"/>': "pbxctl-dialplan.xml",
}
TO_THE_FLEET = """<extension name="fleet"><condition field="destination_number" expression="^300$">
<action application="transfer" data="9196 XML pbxctl-edge"/></condition></extension>
"""


def include(name: str) -> str:
    """On a line of its own: FreeSWITCH drops what else is on it."""
    return f'<X-PRE-PROCESS cmd="include" data="{name}"/>'


@pytest.mark.freeswitch
def test_a_running_freeswitch_joins(lab: Lab) -> None:
    node = lab.freeswitch("fs1")
    before = lab.calls(node, count=1, hold_s=60)
    until(lambda: before.so_far().answered == 1, 5, "a call is up before")
    conf = node.folder / "conf"
    folder = begin(lab, node, event_socket=f"{node.address}:8021", folder=str(conf))
    (folder / "secrets" / "fs1").write_text(node.secret)  # the event socket keeps its password
    config = load(folder / "pbxctl.yaml")
    write(render(config, "fs1", conf))
    xml = (conf / "freeswitch.xml").read_text()
    for place, name in INCLUDES.items():
        assert place in xml
        xml = xml.replace(place, f"\n{include(name)}\n{place}")
    xml = xml.replace('<extension name="echo">', TO_THE_FLEET + '<extension name="echo">')
    directory = f'<section name="directory">\n{include("pbxctl-phones.xml")}\n</section>'
    xml = xml.replace('<section name="directory"/>', directory)
    stock = '<configuration name="fifo.conf"><settings/><fifos/></configuration>'
    xml = xml.replace("</configuration>\n</section>", f"</configuration>{stock}</section>")
    (conf / "freeswitch.xml").write_text(xml)
    for command in (
        "reloadxml", "load mod_curl", "load mod_lua", "load mod_db", "load mod_fifo",
        "sofia profile pbxctl start", "sofia profile pbxctl-phones start",
    ):  # fmt: skip
        assert "-ERR" not in (said := node.esl(f"api {command}", 5)), f"{command}: {said}"
    start_stunnel(lab, "fs1", conf, config.nodes["fs1"].control)
    check(lab, folder, node)
    still_up(before)


def still_up(before: Calls) -> None:
    assert before.running
    assert [(c.answered, c.hung_up_by_peer) for c in before.so_far().calls] == [(True, False)]
    before.stop()


def check(lab: Lab, folder: Path, node: Asterisk | FreeSwitch) -> None:
    """Steps 3 and 4, with the call from before still up."""
    with control_plane(lab, folder):
        until(lambda: state(folder, node.name) == "active", 20, "the node is active")
        # The call from before is seen, and counts.
        (old,) = answer(folder, "calls", "list")["calls"]
        assert (old["placement"], old["state"]) == ("", "live")
        wrong = [f for f in findings(folder) if f["level"] == "fail"]
        assert [f for f in wrong if f["check"] != "version"] == []
        # An old number goes on as it was; the one that asks is placed.
        assert lab.calls(node, "9196", count=1).result().answered == 1
        placed = lab.calls(node, "300", count=1, hold_s=6)
        until(lambda: has_placement(folder), 5, "the fleet placed the call")
        assert placed.result().answered == 1


def state(folder: Path, name: str) -> str:
    ran = pbxctl(folder, "nodes", "show", name, "-o", "json")
    return str(json.loads(ran.stdout)["state"]) if ran.returncode == 0 else ""


def findings(folder: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(pbxctl(folder, "doctor", "-o", "json").stdout)
    return found


def has_placement(folder: Path) -> bool:
    return any(call["placement"] for call in answer(folder, "calls", "list")["calls"])


BEFORE = """#!KAMAILIO
listen=udp:{sip}
children=2
debug=1
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "dispatcher.so"
modparam("dispatcher", "list_file", "{folder}/dispatcher.list")
{modules}
request_route {{
    if (is_method("OPTIONS")) {{ sl_send_reply("200", "OK"); exit; }}
    if (has_totag()) {{ loose_route(); t_relay(); exit; }}
    if (is_method("ACK|CANCEL")) {{ t_relay(); exit; }}
    record_route();
    route(DISPATCH);
    t_relay();
}}
{dispatch}
"""
DISPATCH = """
route[DISPATCH] {
    if (!ds_select_dst("1", "4")) { sl_send_reply("503", "No Destination"); exit; }
}
"""


def blocks() -> list[str]:
    """The page's two pieces of kamailio.cfg: modules, and the route."""
    text = (REPOSITORY / "docs" / "migration.md").read_text("utf-8")
    found = re.findall(r"^```\n((?:loadmodule|route\[).*?)^```", text, re.S | re.M)
    assert len(found) == 2
    return found


def test_a_kamailio_with_a_dispatcher_asks_the_fleet_first(lab: Lab) -> None:
    node, sip = lab.asterisk("east-1"), f"{lab.address()}:5060"
    settings = {
        "fleet": "office",
        "edges": {"edge": {"region": "main", "sip": sip}},
        "numbers": [{"prefix": "9196", "service": "echo"}],
    }
    with LabFleet(
        lab, {node: "main"}, lab.redis(), calls_max=2, user="fleet", settings=settings
    ) as fleet:
        put_rendered(fleet.config, node)
        write(render(fleet.config, "edge"))
        folder = folder_of(fleet.config, "edge")
        (folder / "dispatcher.list").write_text(f"1 sip:{node.sip} 0 0\n")

        def kamailio(name: str, modules: str, dispatch: str) -> Program:
            config = folder / f"{name}.cfg"
            config.write_text(
                BEFORE.format(sip=sip, folder=folder, modules=modules, dispatch=dispatch)
            )
            return lab.program(
                name,
                ["kamailio", "-f", config, "-DD", "-E", "-m", "32", "-M", "8",
                 "-P", lab.run.folder / f"{name}.pid"],
                ready=lambda: answers_options(*split_address(sip)),
            )  # fmt: skip

        for role in ("driver", "steward"):
            fleet.start(role)
        fleet.until_active()
        old = kamailio("before", "", DISPATCH)
        before = lab.calls(sip, "9196", count=1, hold_s=9)
        until(lambda: before.so_far().answered == 1, 5, "a call by the dispatcher")
        assert placements(fleet) == [""]
        old.stop()

        kamailio("after", *blocks())
        placed = lab.calls(sip, "9196", count=1, hold_s=3)
        until(lambda: len([p for p in placements(fleet) if p]) == 1, 5, "a call by placement")
        # No node has room: the fleet's answer counts, not the list.
        assert lab.calls(sip, "9196", count=1).result().codes == {503: 1}
        assert (before.result(10).completed, placed.result().completed) == (1, 1)
        # Without Redis the dispatcher does it as before.
        redis = next(one for one in lab.nodes if isinstance(one, Redis))
        redis.kill()
        assert lab.calls(sip, "9196", count=1).result().answered == 1


def placements(fleet: LabFleet) -> list[str]:
    return [call.placement for call in fleet.ask(lambda door: door.calls("east-1"))]
