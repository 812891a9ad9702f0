"""The gate itself: who may reach it, what it says when things are wrong, what it writes down."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession, TCPConnector, UnixConnector
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller.api import journal
from controller.api.client import Gate, TlsGate, UnixGate
from controller.api.journal import masked
from controller.api.shapes import CallAction, Nodes, OriginateAsk
from controller.config import Config
from controller.config_file import parse
from controller.errors import (
    CommandRefused,
    FleetUnreachable,
    NotFound,
    PbxctlError,
    Refused,
    Unreachable,
    UsageError,
)
from controller.fleet import commands
from controller.fleet.functions import Fleet, connect
from controller.model import OriginateRequest
from controller.roles import gate as gate_role
from tests.gate_server import Playing, serving, until_answers, write_config
from tests.redis_server import RedisServer


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def config(server: RedisServer, tmp_path: Path) -> Config:
    file = write_config(tmp_path, server.url)
    return parse(file.read_text(), str(file))


def gate_of(config: Config) -> Gate:
    return Gate(UnixGate(config.state_path / "gate.sock"))


async def request(
    config: Config, method: str, path: str, body: bytes = b""
) -> tuple[int, dict[str, object]]:
    where = UnixConnector(str(config.state_path / "gate.sock"))
    async with (
        ClientSession(connector=where) as session,
        session.request(method, f"http://gate{path}", data=body) as answer,
    ):
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def test_the_socket_is_for_its_owner_alone(config: Config) -> None:
    async with serving(config):
        path = config.state_path / "gate.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(config.state_path.stat().st_mode) == 0o700
    assert not path.exists()


async def test_a_dead_gates_socket_is_replaced_a_living_ones_is_not(config: Config) -> None:
    config.state_path.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(config.state_path / "gate.sock"))
    async with serving(config):
        with pytest.raises(Refused, match="another gate listens"):
            await gate_role.run(config, asyncio.Event())
        nodes = await asyncio.to_thread(gate_of(config).get, Nodes, "nodes")
        assert len(nodes.nodes) == 3


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/v1/nodes/none", b"", 404, "NotFound"),
        ("GET", "/v1/calls/none", b"", 404, "NotFound"),
        ("GET", "/v1/calls/none/why", b"", 404, "NotFound"),
        ("GET", "/v1/nothing", b"", 404, "NotFound"),
        ("GET", "/", b"", 404, "NotFound"),
        ("DELETE", "/v1/nodes", b"", 404, "NotFound"),
        ("POST", "/v1/nodes/e1/explode", b"", 404, "NotFound"),
        ("GET", "/v1/calls?limit=0", b"", 400, "UsageError"),
        ("GET", "/v1/calls?limit=9999999999999999999", b"", 400, "UsageError"),
        ("GET", "/v1/calls?limit=%D9%A1", b"", 400, "UsageError"),
        ("POST", "/v1/nodes/e1/drain", b"{", 400, "UsageError"),
        ("POST", "/v1/nodes/e1/drain", b'{"dry_rnu": true}', 400, "UsageError"),
        ("POST", "/v1/nodes/e1/drain", b'{"dry_run": "yes"}', 400, "UsageError"),
        ("POST", "/v1/nodes/e1/drain", b"[]", 400, "UsageError"),
        ("POST", "/v1/nodes/e1/drain", b"\xff\xfe", 400, "UsageError"),
        ("POST", "/v1/nodes/e1/drain", b'"' + b"x" * 100_000 + b'"', 400, "UsageError"),
        ("POST", "/v1/calls", b'{"to": "1"}', 400, "UsageError"),
        ("POST", "/v1/route", b'{"to": "1", "region": "nowhere"}', 404, "NotFound"),
        ("POST", "/v1/route", b'{"to": "' + b"1" * 300 + b'"}', 400, "UsageError"),
    ],
)
async def test_each_wrong_request_gets_an_error_in_json(
    config: Config, method: str, path: str, body: bytes, status: int, kind: str
) -> None:
    async with serving(config):
        got, answer = await request(config, method, path, body)
        error = msgspec.convert(answer["error"], dict[str, object])
        assert (got, error["kind"], error["exit_code"]) == (status, kind, 2)
        assert error["message"]
        got, _ = await request(config, "GET", "/v1/nodes")
        assert got == 200


async def test_redis_away_is_said_and_survived(server: RedisServer, config: Config) -> None:
    async with serving(config):
        gate = gate_of(config)
        server.stop()
        with pytest.raises(FleetUnreachable):
            await asyncio.to_thread(gate.get, Nodes, "nodes")
        server.start()
        nodes = await asyncio.to_thread(gate.get, Nodes, "nodes")
        assert {n.reason for n in nodes.nodes} == {"no driver has taken it yet"}


async def test_the_gate_starts_without_redis(server: RedisServer, config: Config) -> None:
    server.stop()
    stop = asyncio.Event()
    task = asyncio.create_task(gate_role.run(config, stop))
    await until_answers(config, task)
    with pytest.raises(FleetUnreachable):
        await asyncio.to_thread(gate_of(config).get, Nodes, "nodes")
    stop.set()
    await task


async def test_a_call_that_no_driver_takes_is_never_made_later(config: Config) -> None:
    fleet = Fleet(connect(config, "gate"), config.fleet)
    playing = Playing(config, fleet)
    await playing.join()  # registered, but nobody works on its commands
    request = OriginateRequest("Local/1@pbxctl-out", "pbxctl-services", "2", "")
    done = await commands.send(fleet, "e1", commands.Originate(request), 0.2)
    assert (done.state, done.message) == ("failed", "no driver took the command in time")
    assert await fleet.take(playing.leases["e1"]) is None
    await fleet.close()


async def test_a_command_that_a_driver_began_ends_unknown(config: Config) -> None:
    fleet = Fleet(connect(config, "gate"), config.fleet)
    playing = Playing(config, fleet)
    await playing.join()
    sending = asyncio.create_task(commands.send(fleet, "e1", commands.Hangup("x"), 0.5))
    async with asyncio.timeout(5):
        while not await fleet.take(playing.leases["e1"]):
            await asyncio.sleep(0.01)
    assert (await sending).state == "unknown"
    await fleet.close()


async def test_changes_are_journalled_and_numbers_masked(
    config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(config):
        body = b'{"to": "+4930123456", "from": "400"}'
        status, answer = await request(config, "POST", "/v1/calls", body)
        assert status == 200
        await request(config, "POST", "/v1/nodes/e1/drain")
        await request(config, "POST", "/v1/nodes/none/drain")
        await request(config, "GET", "/v1/nodes")
    lines = [json.loads(x) for x in capfd.readouterr().err.splitlines() if x.startswith("{")]
    assert [(x["what"], x["status"]) for x in lines] == [
        ("originate", 200), ("node.action", 200), ("node.action", 404),
    ]  # fmt: skip
    first, second, _ = lines
    assert first["who"].startswith("uid:")
    assert (first["to"], first["caller"], first["state"]) == ("********456", "***", "done")
    assert (second["node"], second["action"]) == ("e1", "drain")
    assert "30123" not in json.dumps(lines)
    assert answer["node"] == first["node"]


@pytest.mark.parametrize(
    ("number", "shown"),
    [("", ""), ("12", "**"), ("123", "***"), ("1234", "*234"), ("9" * 500, "*" * 32 + "999")],
)
def test_masking(number: str, shown: str) -> None:
    assert masked(number) == shown


def make_certificates(folder: Path) -> None:
    """ca.pem, gate.pem, clerk.pem of that authority, and stranger.pem of another."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(issuer is None, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(issuer[1] if issuer else key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made, key

    ca = certificate("ca", None)
    certificate("gate", ca)
    certificate("clerk", ca)
    certificate("stranger", certificate("other-ca", None))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_tcp_takes_tls_1_3_and_certificates_of_its_authority_alone(
    server: RedisServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_certificates(tmp_path)
    port = free_port()
    more = f"gate: {{listen: 'localhost:{port}', tls: {{cert: gate.pem, key: gate.key, "
    file = write_config(tmp_path, server.url, more + "client_ca: ca.pem}}")
    config = parse(file.read_text(), str(file))

    def client(name: str, ca: str = "ca.pem", host: str = "localhost") -> Gate:
        files = (tmp_path / f"{name}.pem", tmp_path / f"{name}.key", tmp_path / ca)
        return Gate(TlsGate(f"https://{host}:{port}", *files), timeout_s=5)

    async with serving(config):
        nodes = await asyncio.to_thread(client("clerk").get, Nodes, "nodes")
        assert len(nodes.nodes) == 3
        ask = OriginateAsk(to="1", caller="2", dry_run=True)
        await asyncio.to_thread(lambda: client("clerk").post(CallAction, "calls", body=ask))
        for wrong in (client("stranger"), client("clerk", "other-ca.pem")):
            with pytest.raises((CommandRefused, Unreachable)) as caught:
                await asyncio.to_thread(wrong.get, Nodes, "nodes")
            assert "certificate" in caught.value.hint
        with pytest.raises(PbxctlError, match="secure"):
            await asyncio.to_thread(client("clerk", host="127.0.0.1").get, Nodes, "nodes")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(tmp_path / "ca.pem")
        old.load_cert_chain(tmp_path / "clerk.pem", tmp_path / "clerk.key")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with ClientSession(connector=TCPConnector(ssl=old)) as session:
            with pytest.raises(OSError, match=r"(?i)ssl|protocol"):
                await session.get(f"https://localhost:{port}/v1/nodes")
    lines = [json.loads(x) for x in capfd.readouterr().err.splitlines() if x.startswith("{")]
    assert [x["who"] for x in lines] == ["cert:clerk"]


def test_a_certificate_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    files = [tmp_path / "clerk.pem", tmp_path / "clerk.key", tmp_path / "ca.pem"]
    for i, file in enumerate(files):
        wrong = [*files[:i], tmp_path / f"no-{file.name}", *files[i + 1 :]]
        with pytest.raises(UsageError, match=f"no-{file.name}"):
            Gate(TlsGate("https://localhost:1", *wrong))


def test_a_client_raises_what_the_gate_raised() -> None:
    from controller.api.border import error_reply
    from controller.api.client import _decoded

    for error in (NotFound("no", hint="look"), Refused("no"), FleetUnreachable("away")):
        reply = error_reply(error)
        assert isinstance(reply.body, bytes)
        with pytest.raises(type(error)) as caught:
            _decoded(reply.body, reply.status, Nodes)
        assert type(caught.value) is type(error)
        assert (caught.value.message, caught.value.hint) == (error.message, error.hint)


def test_the_journal_is_one_line_whatever_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    journal.log.propagate = True
    with caplog.at_level(logging.ERROR, logger=journal.log.name):
        journal.fault("GET", "/v1/\n{}\r\x1b", RuntimeError("x"))
    assert "\n" not in caplog.records[0].getMessage()
