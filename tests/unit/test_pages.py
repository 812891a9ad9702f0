"""Pages that are made from the code are what the code makes, and what it says is so."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.api.listen import socket_path
from controller.api.shapes import RouteAsk
from deploy.pages import api
from deploy.pages.__main__ import written
from tests.gate_server import Stand

PAGES = written()
#: a request for each route of the gate that changes nothing: name, path, body
ASKED: tuple[tuple[str, str, str], ...] = (
    ("nodes", "nodes", ""),
    ("node", "nodes/e1", ""),
    ("node.action", "nodes/e1/drain", '{"dry_run": true}'),
    ("calls", "calls?node=e1&limit=5", ""),
    ("originate", "calls", '{"to": "1", "from": "4001", "dry_run": true}'),
    ("call", "calls/KEY", ""),
    ("call.why", "calls/KEY/why", ""),
    ("hangup", "calls/KEY/hangup", '{"dry_run": true}'),
    ("alarms", "alarms?limit=1", ""),
    ("route", "route", '{"to": "4001"}'),
    ("fleet", "fleet", ""),
    ("phones", "phones", ""),
    ("phone.add", "phones", '{"name": "201", "dry_run": true}'),
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_what_the_code_makes(path: Path) -> None:
    assert path.read_text("utf-8") == PAGES[path], "make pages"


def test_every_route_is_said_and_no_other() -> None:
    assert {route.kwargs["name"] for _, route in api.routes()} == set(api.SAID)


def test_what_a_handler_reads_is_found() -> None:
    found = {route.kwargs["name"]: route for _, route in api.routes()}
    assert api.asked(found["calls"]) == {"limit", "node"}
    assert api.asked(found["recording.audio"]) == {"from_ms", "to_ms"}
    assert api.body_of(found["route"]) is RouteAsk
    assert {right.value for right in api.rights_of(found["recording.erase"])} == {"erase"}
    without = {
        name for name, route in found.items() if route.method == "POST" and not api.body_of(route)
    }
    assert without == {"recording.verify", "vault.check"}, "these take none"
    open_to_all = {
        r.kwargs["name"] for of, r in api.routes() if of == "vault" and not api.rights_of(r)
    }
    assert open_to_all == set()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("g")) as stand:
        stand.run(stand.playing.start("e1", 1))
        yield stand


@pytest.mark.parametrize(("name", "path", "body"), ASKED, ids=[name for name, *_ in ASKED])
def test_a_gate_answers_in_the_shape_that_is_said(
    stand: Stand, name: str, path: str, body: str
) -> None:
    shape = api.SAID[name][0]
    assert shape
    key = ask(stand, "calls", "")["calls"][0]["key"] if "KEY" in path else ""
    answer = ask(stand, path.replace("KEY", key), body)
    keys = {field.encode_name for field in msgspec.structs.fields(shape)}
    assert set(answer) == keys
    msgspec.convert(answer, shape)


def ask(stand: Stand, path: str, body: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(socket_path(stand.config)))
        connection = http.client.HTTPConnection("gate")
        connection.sock = sock
        connection.request("POST" if body else "GET", f"/v1/{path}", body or None)
        answer = connection.getresponse()
        raw = answer.read()
    assert answer.status == 200, raw
    return msgspec.json.decode(raw, type=dict[str, Any])


@pytest.mark.skipif(
    shutil.which("groff") is None, reason="groff is not installed (Debian: groff-base)"
)
def test_the_man_page_has_no_fault_that_groff_sees() -> None:
    page = next(text for path, text in PAGES.items() if path.suffix == ".1")
    ran = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"], input=page, capture_output=True, text=True, timeout=20
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "--reason TEXT" in re.sub(".\x08", "", ran.stdout)  # bold is overstruck
