"""The PBXs: control port, login, version, what it must have, SIP, clock."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable

from controller.config import Config, NodeConfig, read_secret, split_address
from controller.doctor.dumped_config import check_dump
from controller.doctor.finding import Finding, fail, ok, warn
from controller.doctor.picture import judge_skew
from controller.errors import (
    CommandRefused,
    ConfigError,
    LinkLost,
    LoginRefused,
    PbxctlError,
)
from controller.model import Kind, LoadSample, NodeFacts
from controller.pbx.ami import Link
from controller.pbx.drivers import Drivers
from controller.pbx.esl import EslLink
from controller.pbx.hub import GreenHub
from controller.pbx.options import OptionsProbe, probe_of
from controller.pbx.version import ASTERISK_NATIVE_DRAIN, floor_of, parse_version

TCP_WAIT_S = 2.0
HEARTBEAT_WAIT_S = 2.5
CPU_MEAN_MAX_S = 3
SWITCH_CONF = "xml_locate configuration configuration name switch.conf"
AT_ONCE = 20
ASTERISK_MODULES = ("res_pjsip", "chan_pjsip", "res_pjsip_session", "pbx_config", "func_channel")
FREESWITCH_MODULES = ("mod_sofia", "mod_event_socket", "mod_dptools", "mod_commands")
#: AMI actions of the driver, and the manager right that each needs
AMI_ACTIONS = {
    "CoreShowChannels": "read/write system or reporting",
    "CoreSettings": "write system or reporting",
    "Getvar": "write call or reporting",
    "Hangup": "write call or system",
    "Originate": "write originate",
    "Reload": "write system or config",
}


def judge_version(name: str, facts: NodeFacts) -> Finding:
    version = parse_version(facts.version)
    floor = floor_of(facts.kind, version)
    want = ".".join(map(str, floor))
    if version < floor:
        return fail(
            name,
            "version",
            f"{facts.kind.value} {facts.version or 'of unknown version'} has known holes",
            f"upgrade to {want} or later",
        )
    if facts.kind is Kind.ASTERISK and version < ASTERISK_NATIVE_DRAIN:
        return warn(
            name,
            "version",
            f"Asterisk {facts.version} cannot drain natively: phones on it still call out",
            "upgrade to 22.10 or later to have `nodes drain` refuse those too",
        )
    return ok(name, "version", f"{facts.kind.value} {facts.version}")


def judge_limit(name: str, configured: int | None, told: int | None) -> Finding:
    if configured is None and told is None:
        return fail(
            name,
            "limit",
            "it has no limit of calls, so placement sends it none",
            "set calls_max at the node, or maxcalls in asterisk.conf",
        )
    if configured is not None and told is not None and configured > told:
        return warn(
            name,
            "limit",
            f"calls_max {configured} is above the PBX's own limit of {told}",
            "lower calls_max, or raise the PBX's limit",
        )
    return ok(name, "limit", f"{configured or told} calls")


def judge_modules(name: str, missing: Iterable[str], kind: Kind) -> Finding:
    absent = ", ".join(missing)
    if absent:
        file = "modules.conf" if kind is Kind.ASTERISK else "modules.conf.xml"
        return fail(name, "modules", f"not loaded: {absent}", f"load them in {file}")
    return ok(name, "modules", "all that are needed are loaded")


def judge_rights(name: str, user: str, missing: Iterable[str]) -> Finding:
    absent = list(missing)
    if absent:
        rights = "; ".join(f"{action}: {AMI_ACTIONS[action]}" for action in absent)
        return fail(
            name,
            "rights",
            f"manager user {user} may not {', '.join(absent)}",
            f"in manager.conf give {user} these ({rights}), or take pbxctl render's stanza",
        )
    return ok(name, "rights", f"manager user {user} may do all that is needed")


def judge_heartbeat(name: str, heard: bool) -> Finding:
    if heard:
        return ok(name, "heartbeat", "comes each second")
    return fail(
        name,
        "heartbeat",
        f"none within {HEARTBEAT_WAIT_S:g} s",
        'set <param name="event-heartbeat-interval" value="1"/> in switch.conf.xml',
    )


def judge_cpu(name: str, switch_conf: str) -> Finding:
    """switch_conf: as the node runs on it, XML."""
    depth = re.search(r'"cpu-idle-smoothing-depth"\s+value="(\d+)"', switch_conf)
    seconds = int(depth[1]) if depth else 0
    if 0 < seconds <= CPU_MEAN_MAX_S:
        return ok(name, "cpu", f"is told as a mean of {seconds} s")
    return warn(
        name,
        "cpu",
        f"is told as a mean of {seconds or 30} s, too late to place calls by",
        'set <param name="cpu-idle-smoothing-depth" value="1"/> in switch.conf.xml',
    )


def judge_sip(name: str, address: str, answered: bool) -> Finding:
    if answered:
        return ok(name, "sip", f"OPTIONS at {address} is answered")
    return fail(
        name,
        "sip",
        f"OPTIONS at {address} is not answered",
        "check sip in the config, that the PBX listens there, its firewall and its access lists",
    )


def judge_connect(name: str, node: NodeConfig, error: PbxctlError) -> Finding:
    if isinstance(error, LoginRefused):
        where = "manager.conf" if node.kind is Kind.ASTERISK else "event_socket.conf.xml"
        return fail(
            name, "login", error.message, error.hint or f"make {where} and password_file agree"
        )
    if isinstance(error, LinkLost):
        fix = (
            "the port took the connection and closed it: is it the control port, are we permitted?"
        )
        return fail(name, "login", error.message, error.hint or fix)
    return fail(name, "login", error.message, error.hint or "look at the PBX's log and its load")


async def check_nodes(config: Config) -> list[Finding]:
    hub = GreenHub()
    freeswitch = any(node.kind is Kind.FREESWITCH for node in config.nodes.values())
    try:
        probe, drivers = probe_of(config), Drivers(config, hub)
    except ConfigError as error:
        return [fail("pki", "files", error.message, error.hint)]
    await probe.open()
    if freeswitch:
        hub.start()
    room = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, node: NodeConfig) -> list[Finding]:
        async with room:
            return await _check_node(config, name, node, drivers, probe)

    try:
        found = await asyncio.gather(*(one(name, node) for name, node in config.nodes.items()))
    finally:
        probe.close()
        if freeswitch:
            await asyncio.to_thread(hub.stop)
    return [finding for node in found for finding in node]


async def _check_node(
    config: Config, name: str, node: NodeConfig, drivers: Drivers, probe: OptionsProbe
) -> list[Finding]:
    found = [judge_sip(name, node.sip, await _answers_options(probe, name, node))]
    tcp = await _check_tcp(name, node)
    found.append(tcp)
    if tcp.fix:
        return found
    try:
        secret = read_secret(config.path(node.password_file))
    except ConfigError:
        return found  # told by host.check_secret
    try:
        found += await _check_control(name, node, secret, drivers)
    except PbxctlError as error:
        found.append(judge_connect(name, node, error))
    return found


async def _check_tcp(name: str, node: NodeConfig) -> Finding:
    host, port = split_address(node.control)
    try:
        async with asyncio.timeout(TCP_WAIT_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or "no answer"
        what = "AMI (manager.conf: enabled = yes, bindaddr)"
        if node.kind is Kind.FREESWITCH:
            what = "mod_event_socket (event_socket.conf.xml: listen-ip)"
        return fail(
            name,
            "control port",
            f"{node.control}: {why}",
            f"start the PBX; switch on {what}; open the firewall",
        )
    return ok(name, "control port", f"{node.control} takes connections")


async def _check_control(
    name: str, node: NodeConfig, secret: str, drivers: Drivers
) -> list[Finding]:
    driver = drivers.new(node, secret)
    try:
        facts = await driver.connect()
        found = [
            ok(name, "login", f"as {node.user}" if node.kind is Kind.ASTERISK else "done"),
            judge_version(name, facts),
            judge_limit(name, node.calls_max, facts.calls_max),
        ]
        if node.kind is Kind.FREESWITCH:
            heard = False
            try:
                async with asyncio.timeout(HEARTBEAT_WAIT_S):
                    async for events in driver.watch():
                        if any(isinstance(e, LoadSample) for e in events):
                            heard = True
                            break
            except TimeoutError:
                pass
            found.append(judge_heartbeat(name, heard))
    finally:
        await driver.close()
    if node.kind is Kind.ASTERISK:
        return found + await _look_into_asterisk(name, node, secret, drivers)
    return found + await _look_into_freeswitch(name, node, secret, drivers)


async def _look_into_asterisk(
    name: str, node: NodeConfig, secret: str, drivers: Drivers
) -> list[Finding]:
    host, port = split_address(node.control)
    # A loss shows in what is asked.
    link = Link(host, port, tls=drivers.tls(), on_lost=lambda _: None)
    try:
        await link.connect(node.user, secret)
        # ListCommands shows only what this user may do, so nothing has to be tried out.
        allowed = (await link.ask("ListCommands")).headers
        missing = [action for action in AMI_ACTIONS if action not in allowed]
        absent = []
        for module in ASTERISK_MODULES:
            try:
                await link.ask("ModuleCheck", Module=module)
            except CommandRefused:
                absent.append(module)
        told = (await link.ask("Ping")).headers.get("Timestamp", "")
        found = [
            judge_rights(name, node.user, missing),
            judge_modules(name, absent, node.kind),
        ]
        if told.replace(".", "", 1).isdigit():
            found.append(judge_skew(name, float(told) - time.time()))
        return found
    finally:
        link.close()


async def _look_into_freeswitch(
    name: str, node: NodeConfig, secret: str, drivers: Drivers
) -> list[Finding]:
    host, port = split_address(node.control)

    def nothing(*_: object) -> None:
        pass

    link = EslLink(
        host, port, secret, tls=drivers.green_tls(),
        on_events=nothing, on_lost=nothing, on_dropped=nothing,
    )  # fmt: skip

    def ask() -> list[Finding]:
        link.connect()
        try:
            absent = [m for m in FREESWITCH_MODULES if link.api(f"module_exists {m}") != "true"]
            told = link.api("strepoch").strip()
            found = [judge_modules(name, absent, node.kind)]
            found.append(judge_cpu(name, link.api(SWITCH_CONF)))
            if told.isdigit():
                found.append(judge_skew(name, int(told) + 0.5 - time.time()))
            found.append(check_dump(name, host, link.api("eval $${log_dir}").strip()))
            return found
        finally:
            link.stop()

    return await drivers.hub.run(ask)


async def _answers_options(probe: OptionsProbe, name: str, node: NodeConfig) -> bool:
    host, port = split_address(node.sip)
    probe.ask(name, host, port)
    # The first question starts the clock of silence; an answer to a later one sets it back.
    for _ in range(5):
        await asyncio.sleep(0.25)
        probe.ask(name, host, port)
        await asyncio.sleep(0.1)
        if probe.silence_s(name) < 0.2:
            return True
    return False
