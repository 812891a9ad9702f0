"""Records tests/data/esl from a real FreeSWITCH: python -m tests.contract.freeswitch_record"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from controller.pbx.freeswitch_calls import EVENTS
from tests.contract.case import CALLER, PLACEMENT
from tests.contract.freeswitch_node import ESL_PORT, FreeSwitchNode

DATA = Path(__file__).parent.parent / "data" / "esl"
DIALLED = "dddddddd-0000-4000-8000-000000000001"
HOSTILE_NAME = "%0AEvent-Name: CHANNEL_DESTROY%0AUnique-ID: forged%0A"
_FRAME = re.compile(rb"Content-Length: (\d+)\nContent-Type: (text/event-\w+)\n\n")


def call(node: FreeSwitchNode) -> None:
    node.call("wait", caller=CALLER, placement=PLACEMENT)
    time.sleep(0.8)
    node.api(f"uuid_answer {_leg(node)}")
    time.sleep(0.5)
    node.api("hupall NORMAL_CLEARING")


def legs(node: FreeSwitchNode) -> None:
    node.call("leg", caller=CALLER, placement=PLACEMENT)
    time.sleep(1)
    node.api("hupall CALL_REJECTED")


def merge(node: FreeSwitchNode) -> None:
    node.call("park", caller=CALLER, placement=PLACEMENT)
    time.sleep(0.5)
    leg = _leg(node)
    agent = "aaaaaaaa-0000-4000-8000-000000000001"
    agent_at = node.api(
        f"originate {{origination_uuid={agent}}}sofia/trunk/agent@127.0.12.250:5090 &park()"
    )
    assert agent_at.startswith("+OK"), agent_at
    node.api(f"uuid_bridge {agent} {leg}")
    time.sleep(0.5)
    node.api(f"uuid_transfer {leg} park XML from-trunk")
    time.sleep(0.5)
    node.api("hupall NORMAL_CLEARING")


def cancel(node: FreeSwitchNode) -> None:
    node.api(
        "bgapi originate {originate_timeout=1,ignore_early_media=true}"
        "sofia/trunk/wait@127.0.12.2:5060 park XML from-trunk"
    )
    time.sleep(2)


def dial(node: FreeSwitchNode) -> None:
    node.api(
        f"bgapi originate {{origination_uuid={DIALLED},pbxctl_placement=pl-contract-2}}"
        "sofia/trunk/agent@127.0.12.250:5090 park XML from-trunk"
    )
    time.sleep(0.5)
    node.api("hupall NORMAL_CLEARING")


def refused(node: FreeSwitchNode) -> None:
    node.api("bgapi originate sofia/nowhere/agent@127.0.12.250 park XML from-trunk")
    time.sleep(0.5)


def hostile(node: FreeSwitchNode) -> None:
    node.call("wait", caller=CALLER, placement=PLACEMENT, display=HOSTILE_NAME)
    time.sleep(0.5)
    node.api("hupall NORMAL_CLEARING")


def _leg(node: FreeSwitchNode) -> str:
    return node.api("show channels").splitlines()[1].split(",")[0]


def _sessions(node: FreeSwitchNode) -> int:
    found = re.search(r"^(\d+) session\(s\) - peak", node.api("status"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def record(node: FreeSwitchNode, name: str, story: Callable[[FreeSwitchNode], None]) -> None:
    while _sessions(node):
        time.sleep(0.1)  # the story before must not end in this one
    form = name.split(".")[1]
    events = "all" if story is hostile else EVENTS
    link = socket.create_connection((node.address, ESL_PORT))
    for line in (f"auth {node.secret}", f"event {form} {events}"):
        time.sleep(0.1)
        link.recv(4096)
        link.sendall(f"{line}\n\n".encode())
    time.sleep(0.1)
    link.recv(4096)
    data = bytearray()

    def read() -> None:
        with suppress(ConnectionResetError):  # how FreeSWITCH answers our shutdown at times
            while chunk := link.recv(65536):
                data.extend(chunk)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    story(node)
    time.sleep(1)
    link.shutdown(socket.SHUT_RDWR)
    reader.join()
    (DATA / f"{name}.esl").write_bytes(nameless(bytes(data)))


def nameless(data: bytes) -> bytes:
    """The recording without this machine's name, whole frames only."""
    host = socket.gethostname().encode()
    out, at = b"", 0
    while found := _FRAME.match(data, at):
        end = found.end() + int(found[1])
        if end > len(data):
            break
        body = data[found.end() : end]
        body = body.replace(b'Hostname":"' + host + b'"', b'Hostname":"pbx"')
        body = body.replace(b"Hostname: " + host + b"\n", b"Hostname: pbx\n")
        out += b"Content-Length: %d\nContent-Type: %b\n\n%b" % (len(body), found[2], body)
        at = end
    return out


def main() -> None:
    node = FreeSwitchNode("127.0.12.2", peer="127.0.12.250:5090")
    try:
        node.start()
        node.phone(5090)
        record(node, "call.json", call)
        record(node, "legs.json", legs)
        record(node, "merge.json", merge)
        record(node, "cancel.json", cancel)
        record(node, "dial.json", dial)
        record(node, "refused.json", refused)
        record(node, "hostile.plain", hostile)
        record(node, "hostile.json", hostile)
    finally:
        node.stop()


if __name__ == "__main__":
    main()
