"""The agent: beside the PBXs and Kamailio of one machine, for the dialplans on it.

Answers their route questions on loopback, reports the host's load, keeps a snapshot of the fleet,
the dispatcher list and the PBXs' files of phones. Redis may be away at any time, also at the start.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections.abc import Collection, Mapping

from aiohttp import web

from controller import metrics, notify
from controller.agent import snapshots
from controller.agent.answers import REGISTRY, Answers
from controller.agent.certificates import CertificateFiles
from controller.agent.host_load import busy_share, read_cpu_times, read_load1
from controller.agent.packets import watch_packets
from controller.agent.phones import PhoneFiles
from controller.agent.recording_orders import RecordingOrders
from controller.agent.recordings import Recordings
from controller.agent.tmpfs import lock_memory
from controller.config import Config
from controller.errors import ConfigError, PbxctlError, UsageError
from controller.fleet.functions import Fleet, connect
from controller.render.files import folder_of
from controller.routing.fallback import Snapshot
from controller.tasks import together

_log = logging.getLogger(__name__)
REFRESH_S = 1.0
#: a picture that changes only in its numbers goes to disk this often
SAVE_S = 5.0


async def run(config: Config, names: Collection[str] | None, stop: asyncio.Event) -> None:
    """Runs until `stop`. names: the nodes and edges on this machine, None for all of the config.

    Raises UsageError for an unknown name, ConfigError when the port cannot be had or is not on
    loopback.
    """
    here = set(names if names is not None else (*config.nodes, *config.edges))
    if unknown := here - set(config.nodes) - set(config.edges):
        raise UsageError(f"there is no node or edge {', '.join(sorted(unknown))}")
    answers_fleet = Fleet(
        connect(config, "agent", timeout_s=config.agent.deadline_ms / 1000), config.fleet
    )
    fleet = Fleet(connect(config, "agent"), config.fleet)
    phones = [PhoneFiles(config, fleet, node) for node in sorted(here & set(config.nodes))]
    answers = Answers(
        config, answers_fleet, lambda number: any(number in files.names for files in phones)
    )
    answers.snapshot = snapshots.read(snapshots.path_of(config))
    app = answers.app()
    recordings = Recordings(config, fleet, sorted(here & set(config.nodes)))
    if recordings.nodes:
        _guard_memory()
        recordings.add_to(app)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=False)
    await runner.setup()
    server = await metrics.serve_role(config, "agent", REGISTRY)
    try:
        await _listen(config, runner)
        notify.ready()
        nodes = sorted(here & set(config.nodes))
        sampled = nodes if config.media.sample_share else []
        await together(
            stop.wait(),
            _refresh(config, fleet, answers, here),
            _report(fleet, nodes),
            *(files.run() for files in phones),
            *(CertificateFiles(config, fleet, name).run() for name in sorted(here)),
            *(watch_packets(fleet, node) for node in sampled),
            *(node.run() for node in recordings.nodes.values()),
            *(
                RecordingOrders(fleet, node, folder_of(config, name)).run()
                for name, node in recordings.nodes.items()
            ),
        )
    finally:
        await server.close()
        await runner.cleanup()
        await fleet.close()
        await answers_fleet.close()


def _guard_memory() -> None:
    """What is recorded passes through this process in clear, and so do its keys."""
    try:
        lock_memory()
    except PbxctlError as error:
        _log.warning("recordings may reach swap: %s (%s)", error.message, error.hint)


async def _listen(config: Config, runner: web.AppRunner) -> None:
    host, port = config.agent.host, config.agent.port
    try:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError("is not a loopback address")
        await web.TCPSite(runner, host, port).start()
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"the agent cannot listen on {host}:{port}: {error}",
            file=config.source,
            key="agent.host" if isinstance(error, ValueError) else "agent.port",
            hint="whoever reaches the agent can place calls: 127.0.0.1 and a free port",
        ) from error


async def _refresh(config: Config, fleet: Fleet, answers: Answers, here: set[str]) -> None:
    lists = {
        edge: snapshots.DispatcherList(config, edge) for edge in sorted(here & set(config.edges))
    }
    loop = asyncio.get_running_loop()
    saved: Snapshot | None = None
    saved_s = 0.0
    away = False
    while True:
        try:
            nodes = await fleet.nodes()
            if away:
                _log.warning("Redis answers again")
            away = False
        except PbxctlError as error:
            if not away:
                _log.warning("the fleet's picture stays as it is: %s", error)
            away = True
        else:
            if nodes:  # an emptied Redis knows less than we do
                snapshot = snapshots.take(nodes, answers.snapshot, config.nodes)
                answers.snapshot = snapshot
                await _lists(lists, snapshot)
                changed = saved is None or _states(saved) != _states(snapshot)
                if changed or loop.time() - saved_s > SAVE_S:
                    await _save(config, snapshot)
                    saved, saved_s = snapshot, loop.time()
        await asyncio.sleep(REFRESH_S * random.uniform(0.9, 1.1))  # noqa: S311 - spreads agents


def _states(snapshot: Snapshot) -> dict[str, str]:
    return {node.name: node.state for node in snapshot.nodes}


async def _save(config: Config, snapshot: Snapshot) -> None:
    try:
        await asyncio.to_thread(snapshots.write, snapshots.path_of(config), snapshot)
    except OSError as error:
        _log.warning("the snapshot cannot be kept on disk: %s", error)


async def _lists(lists: Mapping[str, snapshots.DispatcherList], snapshot: Snapshot) -> None:
    for edge, kept in lists.items():
        try:
            if await kept.update(snapshot):
                _log.info("dispatcher list of %s brought in step", edge)
        except OSError as error:
            _log.warning("the dispatcher list of %s cannot be written: %s", edge, error)
        except PbxctlError as error:
            _log.warning("the dispatcher list of %s: %s", edge, error.message)


async def _report(fleet: Fleet, nodes: list[str]) -> None:
    before = read_cpu_times()
    while True:
        await asyncio.sleep(REFRESH_S)
        now = read_cpu_times()
        cpu, load1 = busy_share(before, now), read_load1()
        before = now
        for node in nodes:
            try:
                await fleet.host_report(node, cpu, load1)
            except PbxctlError:
                break  # _refresh says that Redis is away; the next second is soon enough
