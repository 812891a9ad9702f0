"""The client's border: whatever a gate does, nothing but a PbxctlError comes out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.api.client import Gate, UnixGate
from controller.api.shapes import Ask, NodeAction, Nodes
from controller.errors import (
    DeadlineExceeded,
    NotFound,
    PbxctlError,
    ProtocolViolation,
    Unreachable,
)


@contextmanager
def gate_that_says(folder: Path, said: bytes | None) -> Iterator[Gate]:
    """A server that answers each request with these bytes; None: it never answers."""
    path = folder / "gate.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(4)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                if said is None:
                    while connection.recv(65536):  # until the client gives up
                        pass
                else:
                    connection.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Gate(UnixGate(path), timeout_s=0.5)
        thread.join(5)


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


NODES = b'{"nodes": []}'


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", Unreachable),
        (b"garbage\r\n\r\n", Unreachable),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n", Unreachable),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", Unreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", ProtocolViolation),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + b"{", ProtocolViolation),
        (http("200 OK", b""), ProtocolViolation),
        (http("200 OK", b"\xff\xfe"), ProtocolViolation),
        (http("200 OK", b'{"nodes": 1}'), ProtocolViolation),
        (http("200 OK", b"[" * 100_000), ProtocolViolation),
        (http("500 Oops", b"<html>"), ProtocolViolation),
        (http("302 Found", NODES, "Location: http://evil/"), ProtocolViolation),
        (
            http("404 No", b'{"error":{"kind":"NotFound","message":"m","hint":"","exit_code":2}}'),
            NotFound,
        ),
        (
            http(
                "500 No", b'{"error":{"kind":"SystemExit","message":"m","hint":"","exit_code":0}}'
            ),
            PbxctlError,
        ),
        (None, DeadlineExceeded),
    ],
)
def test_each_answer_becomes_an_error_of_ours(
    tmp_path: Path, said: bytes | None, kind: type[PbxctlError]
) -> None:
    with gate_that_says(tmp_path, said) as gate, pytest.raises(PbxctlError) as caught:
        gate.get(Nodes, "nodes")
    assert type(caught.value) is kind


def test_a_change_without_an_answer_warns_before_it_is_repeated(tmp_path: Path) -> None:
    for number, said in enumerate((None, b"", b"garbage\r\n\r\n")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with gate_that_says(folder, said) as gate, pytest.raises(Unreachable) as caught:
            gate.post(NodeAction, "nodes", "e1", "drain", body=Ask())
        assert "may still happen" in caught.value.hint


def test_a_good_answer_is_read(tmp_path: Path) -> None:
    with gate_that_says(tmp_path, http("200 OK", NODES)) as gate:
        assert gate.get(Nodes, "nodes") == Nodes([])


def test_a_path_cannot_leave_its_place(tmp_path: Path) -> None:
    with gate_that_says(tmp_path, http("200 OK", NODES)) as gate:
        assert gate.get(Nodes, "nodes", "../x?y#z\r\nHost: evil") == Nodes([])
