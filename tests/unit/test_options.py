"""OPTIONS over UDP, to a node that answers."""

from __future__ import annotations

import asyncio

import pytest

from controller.pbx.options import OptionsProbe
from tests.lab.until import eventually


class Answers(asyncio.DatagramProtocol):
    """As a SIP stack would, as far as it matters here."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data.replace(b"OPTIONS sip:", b"SIP/2.0 200 ", 1), addr)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_node_is_heard_at_either_kind_of_address(host: str) -> None:
    loop = asyncio.get_running_loop()
    node, _ = await loop.create_datagram_endpoint(Answers, local_addr=(host, 0))
    port = node.get_extra_info("sockname")[1]
    probe = OptionsProbe()
    await probe.open()
    probe.ask("n", host, port)
    await asyncio.sleep(0.3)
    probe.ask("n", host, port)
    await eventually(lambda: probe.silence_s("n") < 0.2, 1, "heard")
    probe.close()
    node.close()
