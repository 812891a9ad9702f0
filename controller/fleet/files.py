"""Files that a node's agent writes and its PBX must read: how agent and driver tell each other.

The agent marks what it has written; the node's driver has the PBX read it and says so under its
lease. So an agent can have a PBX read these files again, and order nothing else of it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Literal

from controller.errors import PbxctlError
from controller.fleet.functions import Fleet
from controller.fleet.state import Lease

What = Literal["phones", "certificates"]
READ_S = 7.0  # the driver's own deadline is 5 s
POLL_S = 0.1


class NodeFiles:
    """Those of one node. Raises what Fleet raises."""

    def __init__(self, fleet: Fleet, node: str) -> None:
        self._fleet = fleet
        self._node = node

    async def have_read(self, what: What, content: str = "") -> None:
        """The agent's: has the PBX read what was written. PbxctlError: it has not, and why.

        content: names what the files hold, for `runs_on`; letters and digits.
        """
        mark = f"{content}-{secrets.token_hex(8)}"
        await self._fleet.write_hash(f"written:{self._node}", what, mark.encode())
        deadline_s = asyncio.get_running_loop().time() + READ_S
        problem = "no driver has the node"
        while asyncio.get_running_loop().time() < deadline_s:
            read, problem_then = (await self._read()).get(what, ("", ""))
            if read == mark:
                problem = problem_then
                break
            await asyncio.sleep(POLL_S)
        if problem:
            raise PbxctlError(f"written, but not read by the PBX yet: {problem}")

    async def runs_on(self, what: What) -> str:
        """The agent's: the content that the PBX has read last, "" for none or with a problem."""
        mark, problem = (await self._read()).get(what, ("", ""))
        return "" if problem else mark.partition("-")[0]

    async def due(self) -> dict[What, str]:
        """The driver's: what its PBX has to read, with the mark to answer by."""
        written = await self._fleet.read_hash(f"written:{self._node}")
        if not written:
            return {}
        read = await self._read()
        marks: dict[What, str] = {
            what: written[what.encode()].decode("ascii", "replace")
            for what in ("phones", "certificates")
            if what.encode() in written
        }
        return {what: mark for what, mark in marks.items() if read.get(what, ("", ""))[0] != mark}

    async def tell_read(self, lease: Lease, what: What, mark: str, problem: str) -> None:
        """The driver's: the PBX has read the files of that mark, or has not, and why."""
        await self._fleet.call_function("file_read", lease.node, lease.epoch, what, mark, problem)

    async def _read(self) -> dict[str, tuple[str, str]]:
        raw = await self._fleet.read_hash(f"read:{self._node}")
        found = {}
        for what, told in raw.items():
            mark, _, problem = told.decode("ascii", "replace").partition(" ")
            found[what.decode("ascii", "replace")] = (mark, problem)
        return found
