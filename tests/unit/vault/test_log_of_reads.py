"""The log of reads says what was read, whatever the reader writes into his request."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.client import TlsGate, client_tls
from controller.api.recording_shapes import Reads
from controller.vault.header import Particulars
from tests.sealed import tone
from tests.vault_server import VaultServer


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    with VaultServer(tmp_path_factory.mktemp("v")) as server:
        yield server


def asked(vault: VaultServer, person: str, query: str) -> tuple[int, Any]:
    """GET of the list with a query as it stands."""
    pki = vault.folder / "pki"
    cert, key = (pki / "people" / f"{person}.{end}" for end in ("pem", "key"))
    where = TlsGate("", cert, key, pki / "control" / "ca.pem")
    connection = http.client.HTTPSConnection(
        "127.0.0.1", vault.listen, context=client_tls(where), timeout=20
    )
    try:
        connection.request("GET", f"/v1/recordings?{query}")
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_filter_said_twice_is_logged_as_it_counts(vault: VaultServer) -> None:
    said = Particulars("call-5", "+49301234", "4001", "all", 30)
    made = vault.recorded(vault.agent("n1").sealed(tone(0.2), particulars=said))
    status, found = asked(vault, "olga", "number=%2B49301234&number=555&call=call-5&call=other")
    assert (status, [r["recording"] for r in found["recordings"]]) == (200, [made.id])
    last = vault.person("anna").get(Reads, "reads", who="cert:olga").reads[0]
    assert json.loads(last.detail) == {"number": "******234", "call": "call-5"}


@pytest.mark.parametrize("name", ["recording", "action", "right", "request", "self", "unknown"])
def test_no_word_of_the_query_changes_the_line(vault: VaultServer, name: str) -> None:
    for person, status, action in (("olga", 200, "list"), ("none", 409, "list refused")):
        assert asked(vault, person, f"{name}=x")[0] == status
        last = vault.person("anna").get(Reads, "reads", who=f"cert:{person}").reads[0]
        assert (last.action, last.recording, last.detail) == (action, "", "")
