"""The drivers' OPTIONS at an Asterisk: not a stranger's in its log, no way in for who forges it."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Iterator

import pytest

from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.lab import Lab
from tests.lab.rendered import put_rendered
from tests.lab.until import until

pytestmark = pytest.mark.lab

SDP = (
    "v=0\r\no=- 1 1 IN IP4 {here}\r\ns=-\r\nc=IN IP4 {here}\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 8 0\r\n"
)


@pytest.fixture(scope="module")
def node() -> Iterator[Asterisk]:
    with Lab() as lab:
        node = lab.asterisk("a")
        numbers = [{"prefix": "95", "service": "echo"}]
        with LabFleet(
            lab, {node: "east"}, lab.redis(), user="fleet", settings={"numbers": numbers}
        ) as fleet:
            put_rendered(fleet.config, node)
            fleet.start("driver")
            fleet.start("steward")
            fleet.until_active()
            yield node


def answer(node: Asterisk, method: str, number: str, sender: str, more: str = "") -> int:
    """The final answer to one request from outside of the fleet's addresses; 0 for none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.0.0.1", 0))
        link.settimeout(3)
        here = "{}:{}".format(*link.getsockname())
        kind = {"INVITE": "application/sdp", "MESSAGE": "text/plain"}.get(method)
        body = {"INVITE": SDP.format(here="127.0.0.1"), "MESSAGE": "hello"}.get(method, "")
        more += f"Content-Type: {kind}\r\n" if kind else ""
        tag = secrets.token_hex(8)
        request = (
            f"{method} sip:{number}@{node.sip} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here};branch=z9hG4bK{tag};rport\r\nMax-Forwards: 70\r\n"
            f"From: <sip:{sender}>;tag={tag}\r\nTo: <sip:{number}@{node.sip}>\r\n"
            f"Call-ID: {tag}\r\nCSeq: 1 {method}\r\nContact: <sip:x@{here}>\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        link.sendto(request.encode(), (node.address, int(node.sip.rsplit(":", 1)[1])))
        while True:
            try:
                code = int(link.recv(8192).split(b" ", 2)[1])
            except TimeoutError:
                return 0
            if code >= 200:
                return code


def test_the_log_has_no_line_for_each_sign_of_life(node: Asterisk) -> None:
    asked = time.monotonic()
    until(lambda: time.monotonic() - asked > 2, 3, "five more were asked")
    assert not re.findall(r"pbxctl@pbxctl\.invalid.*", node.messages.read_text())
    # It would have been there: so it is of any other.
    answer(node, "OPTIONS", "x", "else@pbxctl.invalid")
    until(lambda: "else@pbxctl.invalid" in node.messages.read_text(), 3, "the stranger's line")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("INVITE", ""),
        ("INVITE", "X-Pbxctl-Placement: forged-1\r\n"),
        ("MESSAGE", ""),
        ("REGISTER", "Expires: 60\r\n"),
        ("SUBSCRIBE", "Event: presence\r\nExpires: 60\r\n"),
        ("REFER", "Refer-To: <sip:9500@127.0.0.1>\r\n"),
        ("PUBLISH", "Event: presence\r\nExpires: 60\r\n"),
    ],
)
@pytest.mark.parametrize("number", ["9500", "s"])
def test_who_forges_it_gets_nowhere(node: Asterisk, method: str, more: str, number: str) -> None:
    before = node.cli("core show channels count")
    code = answer(node, method, number, "pbxctl@pbxctl.invalid", more)
    assert code >= 400, code
    # "n calls processed" counts every call that came as far as a channel in the dialplan.
    assert node.cli("core show channels count") == before
