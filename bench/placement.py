"""FCALL place against plain SET on one redis-server, at 10, 100 and 1,000 nodes.

Each round has a window of SET and a window of route, one after the other, from redis-benchmark (C,
so that the client is not the bottleneck) with the same connections and pipelining on both sides.
LIVE_CALLS calls are up on the nodes of each fleet all the while. Before a window every node beats,
after it the calls just placed are confirmed and ended by `events`, as their drivers would do. A
window in which not every single call was placed is repeated.
"""

from __future__ import annotations

import asyncio
import csv
import socket
import subprocess
from collections import defaultdict
from dataclasses import dataclass

import redis.asyncio as redis

from bench.figures import Figure, Report, middle
from bench.processes import machine_ticks
from bench.simulated import SimulatedNodes
from tests.redis_server import RedisServer

SIZES = (10, 100, 1000)
LIVE_CALLS = 100_000
HOST = "127.0.0.1"
CLIENTS = 8  # two edges of four workers, as dialplans/kamailio has them
WINDOW_S = 0.25
TRIES_MAX = 6
SET_KEYS = 100_000
# A pair of windows of which other guests of the host had more is left out, if CALM_MIN remain;
# for as many calm pairs as there are rounds, up to MORE_ROUNDS times as many are run.
STOLEN_MAX, CALM_MIN, MORE_ROUNDS = 0.05, 6, 3
ANY_CALL = 2**31 - 1  # redis-benchmark draws numbers below this; two of them make a call id


@dataclass(frozen=True)
class Window:
    """One run of redis-benchmark. calls: commands run (it ends a pipeline that it began).

    usec: in Redis, by INFO commandstats. cpu_us: all of its main thread, reading and writing
    sockets included. busy: the share of one core that it had. stolen: the share of the machine's
    working time that its host gave to other guests.
    """

    calls: int
    per_s: float
    usec: float
    cpu_us: float
    busy: float
    p99_ms: float
    stolen: float


class Load:
    """Windows of load on one server, by the command they send."""

    def __init__(self, client: redis.Redis, port: int, pipeline: int) -> None:
        self._client = client
        self._port = port
        self._pipeline = pipeline
        self._windows = 0

    async def set(self, count: int) -> Window:
        return await self._run(
            count, SET_KEYS, "set", "SET", "bench:__rand_int__", "16 bytes of dat"
        )

    async def route(self, count: int, nodes: SimulatedNodes) -> Window | None:
        """None unless every call was placed."""
        before = await nodes.placed()
        self._windows += 1
        call_id = f"{self._windows}-__rand_int__-__rand_int__@bench.example;tag=__rand_int__"
        function = ["FCALL", "place", "1", nodes.prefix, call_id, nodes.region, "100", "9196"]
        window = await self._run(count, ANY_CALL, "fcall", *function)
        return window if await nodes.placed() - before == window.calls else None

    async def _run(self, count: int, random: int, command: str, *argv: str) -> Window:
        await self._client.config_resetstat()
        cpu_before_s, ticks_before = await self._cpu_s(), machine_ticks()
        program = ["redis-benchmark", "-h", HOST, "-p", str(self._port), "-c", str(CLIENTS)]
        program += ["-P", str(self._pipeline), "-n", str(count), "-r", str(random), "--csv", *argv]
        done = await asyncio.to_thread(
            subprocess.run, program, capture_output=True, text=True, check=True, timeout=120
        )
        work, stolen = (b - a for a, b in zip(ticks_before, machine_ticks(), strict=True))
        cpu_s = await self._cpu_s() - cpu_before_s
        row = list(csv.DictReader(done.stdout.splitlines()))[-1]
        per_s = float(row["rps"])
        stats = (await self._client.info("commandstats"))[f"cmdstat_{command}"]
        calls = int(stats["calls"])
        return Window(
            calls,
            per_s,
            float(stats["usec_per_call"]),
            cpu_s / calls * 1e6,
            cpu_s * per_s / calls,
            float(row["p99_latency_ms"]),
            stolen / max(work, 1),
        )

    async def _cpu_s(self) -> float:
        info = await self._client.info("cpu")
        return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


async def _open_port(client: redis.Redis) -> int:
    """Lets the server listen on TCP too, as it must for edges on other machines."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    await client.config_set("bind", HOST)
    await client.config_set("port", port)
    return port


async def _placed_window(load: Load, nodes: SimulatedNodes, count: int) -> Window:
    for _ in range(TRIES_MAX):
        await nodes.beat()
        window = await load.route(count, nodes)
        placed = await nodes.placed_since()
        await nodes.confirm(placed)
        await nodes.end(placed)
        if window is not None:
            return window
        count = count // 2  # the machine was too slow: the nodes fell silent before its end
    raise RuntimeError(f"no window of {count} calls in {TRIES_MAX} was placed whole")


async def _pair(load: Load, nodes: SimulatedNodes, sets: int, routes: int) -> tuple[Window, Window]:
    return await load.set(sets), await _placed_window(load, nodes, routes)


async def _measure(quick: bool) -> Report:
    sizes = (10, 100) if quick else SIZES
    live = 10_000 if quick else LIVE_CALLS
    rounds = 4 if quick else 24
    sets: dict[int, list[Window]] = defaultdict(list)
    routes: dict[int, list[Window]] = defaultdict(list)
    piped: list[tuple[Window, Window]] = []
    with RedisServer("--busy-reply-threshold", "0") as server:  # as ours has it
        client = redis.Redis.from_url(server.url)
        fleets = {}
        for size in sizes:
            names = {f"n{i}": f"192.0.2.1:{5060 + i}" for i in range(size)}
            fleet = SimulatedNodes(client, f"f{size}", names, calls_max=2 * live // size + 4000)
            await fleet.join()
            await fleet.occupy(live)
            fleets[size] = fleet
        port = await _open_port(client)
        load, pipelined = Load(client, port, 1), Load(client, port, 16)
        set_count = round((await load.set(5000)).per_s * WINDOW_S)
        await fleets[sizes[0]].beat()
        route_count = round((await _placed_window(load, fleets[sizes[0]], 2000)).per_s * WINDOW_S)
        for _ in range(rounds):
            for size, fleet in fleets.items():
                window, placed = await _pair(load, fleet, set_count, route_count)
                sets[size].append(window)
                routes[size].append(placed)
            piped.append(await _pair(pipelined, fleets[100], 4 * set_count, route_count))
        for _ in range(MORE_ROUNDS * rounds):
            if len(calm(list(zip(sets[100], routes[100], strict=True)))) >= rounds:
                break
            window, placed = await _pair(load, fleets[100], set_count, route_count)
            sets[100].append(window)
            routes[100].append(placed)
            piped.append(await _pair(pipelined, fleets[100], 4 * set_count, route_count))
        nodes_seen = len(await fleets[100].fleet.nodes())
        await client.aclose()
    if nodes_seen != 100:
        raise RuntimeError(f"{nodes_seen} nodes instead of 100")
    return Report("placement", quick, _setup(live, rounds), _figures(sets, routes, piped))


def calm(pairs: list[tuple[Window, Window]]) -> list[tuple[Window, Window]]:
    """Those that other guests of the host left alone."""
    return [pair for pair in pairs if all(window.stolen <= STOLEN_MAX for window in pair)]


def calm_or_all(pairs: list[tuple[Window, Window]]) -> list[tuple[Window, Window]]:
    """The calm ones; all where these are too few to say anything."""
    left = calm(pairs)
    return left if len(left) >= CALM_MIN else pairs


def _figures(
    sets: dict[int, list[Window]],
    routes: dict[int, list[Window]],
    piped: list[tuple[Window, Window]],
) -> tuple[Figure, ...]:
    pairs = calm_or_all(list(zip(sets[100], routes[100], strict=True)))
    least, most = min(routes), max(routes)
    both_calm = calm_or_all(
        list(zip(routes[least], routes[most][: len(routes[least])], strict=True))
    )
    growth = [b.usec / a.usec for a, b in both_calm]
    out = [
        Figure(
            "ratio_to_set",
            middle([r.per_s / s.per_s for s, r in pairs]),
            "routes a second over SETs a second, 100 nodes, one command under way a connection",
            "≥ 0.40",
        ),
        Figure(
            f"growth_{least}_to_{most}",
            middle(growth),
            f"server time of one route at {most} nodes over that at {least}",
            "≤ 1.3",
        ),
        Figure(
            "ratio_to_set_cpu",
            middle([s.cpu_us / r.cpu_us for s, r in pairs]),
            "CPU of one SET over CPU of one route (Redis's main thread), 100 nodes",
        ),
        Figure(
            "ratio_to_set_pipelined_16",
            middle([r.per_s / s.per_s for s, r in calm_or_all(piped)]),
            "ratio_to_set with 16 commands under way a connection, which no edge does",
        ),
    ]
    for size in routes:
        out += [
            Figure(
                f"routes_per_s_{size}", middle([w.per_s for w in routes[size]]), f"at {size} nodes"
            ),
            Figure(
                f"route_us_{size}",
                middle([w.usec for w in routes[size]]),
                f"server time of one route at {size} nodes, INFO commandstats",
            ),
        ]
    every_set = [w for windows in sets.values() for w in windows]
    every_route = [w for windows in routes.values() for w in windows]
    return (
        *out,
        Figure("sets_per_s", middle([w.per_s for w in every_set]), "plain SET"),
        Figure("set_us", middle([w.usec for w in every_set]), "server time of one SET"),
        Figure("route_p99_ms", middle([w.p99_ms for w in every_route]), "at the client, saturated"),
        Figure("redis_busy_set", middle([w.busy for w in every_set]), "Redis's share of a core"),
        Figure(
            "redis_busy_route", middle([w.busy for w in every_route]), "Redis's share of a core"
        ),
        Figure("windows", len(every_route), "windows of route with every call placed"),
        Figure("pairs", len(pairs), "of ratio_to_set, those that other guests disturbed left out"),
        Figure(
            "stolen",
            sum(w.stolen for w in every_route) / len(every_route),
            "share of the machine's work that its host gave to other guests, all windows of route",
        ),
    )


def _setup(live: int, rounds: int) -> str:
    return (
        f"{rounds} rounds of {WINDOW_S} s windows, SET and route in turn, {CLIENTS} connections "
        f"over TCP on loopback without pipelining (as Kamailio's ndb_redis asks), {live} live calls"
    )


def run(*, quick: bool) -> Report:
    return asyncio.run(_measure(quick))
