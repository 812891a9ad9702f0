"""The live screen in a real terminal (a pty), and what it draws at every size."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from controller.api.shapes import FleetView
from controller.cli import history, screen
from controller.cli.keys import first_key
from controller.cli.steering import Steering, picked, press, rows
from controller.fleet.state import NodeView
from controller.model import NodeState
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.alone


def node(name: str, **fields: object) -> NodeView:
    base = NodeView(
        name=name, region="east", address="h:1", kind="asterisk", version="22", reason="",
        state=NodeState.ACTIVE, want="active", load=0.5, calls=5, reserved=2, calls_max=10,
        channels=10, channels_max=0, arrivals_per_s=1.0, cpu=0.1, weight=1.0, silent_ms=100,
        loss=-1.0, jitter_ms=-1.0, mes=-1.0, driver="d", drift=0,
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


def fleet(now_ms: int, nodes: list[NodeView], **counters: int) -> FleetView:
    named = {key.replace("_", ":"): n for key, n in counters.items()}
    return FleetView("f", "1", now_ms, "s", ["d"], nodes, named)


def test_rates_are_differences_over_redis_time() -> None:
    before = fleet(1000, [], place_east=10, spill_west=1, reject_x=5)
    now = fleet(3000, [], place_east=30, place_west=10, spill_west=1, reject_x=6)
    found = history.rates(before, now)
    assert {k: found[k] for k in history.RATES} == {"place": 15.0, "spill": 0.0, "reject": 0.5}
    assert (found["place:east"], found["place:west"]) == (10.0, 5.0)
    assert history.rates(now, now) == {}
    assert history.rates(now, fleet(4000, [])) == {}, "Redis lost its data"


@pytest.mark.parametrize(
    ("values", "width", "top", "want"),
    [
        ([0, 1, 2, 4], 4, 0, "▁▃▅█"),
        ([0, 1, 2, 4], 2, 0, "▅█"),
        ([4], 3, 8, "  ▅"),
        ([0.001, None, 0], 3, 1.0, "▂ ▁"),
        ([0, 0], 2, 0, "▁▁"),
        ([9], 1, 1.0, "█"),
        ([1, 2], 0, 0, ""),
        ([], 3, 0, "   "),
    ],
)
def test_sparklines(values: list[float | None], width: int, top: float, want: str) -> None:
    assert history.spark(values, width, top) == want


def test_the_selection_follows_its_node() -> None:
    shown = [node("a"), node("b"), node("c")]
    assert picked(shown, "", 0) == "a"
    assert picked(shown, "a", 1) == "b"
    assert picked(shown, "c", 1) == "c"
    assert picked(shown, "a", -1) == "a"
    assert picked([], "a", 1) == ""


def test_sorts_regions_and_filters() -> None:
    nodes = [
        node("a", load=0.1, calls=9, problem="login refused"),
        node("b", load=0.9, calls=1, region="west", state=NodeState.DOWN),
    ]
    view = fleet(0, nodes)

    def names(**told: str) -> list[str]:
        return [n.name for n in rows(view, Steering(**told))]  # type: ignore[arg-type]

    assert names(sort="load") == ["b", "a"]
    assert names(sort="calls") == ["a", "b"]
    assert names(region="north") == []
    assert names(region="west") == ["b"]
    assert (names(search="LOGIN"), names(search="down"), names(search="x")) == (["a"], ["b"], [])


ON_A = Steering(selected="a")


def steered(*keys: str, begin: Steering = ON_A) -> Steering:
    shown = [node("a"), node("b")]
    for key in keys:
        begin = press(begin, key, shown, ["east", "west"])
    return begin


def test_keys_steer() -> None:
    assert steered("down", "d").foot == "drain b? (y/n)"
    assert steered("down", "u", "y").act == "resume"
    assert (steered("d", "x").act, steered("d", "x").remark) == ("", "not drained")
    assert [steered(*"r" * n).region for n in (1, 2, 3)] == ["east", "west", ""]
    assert steered("/", "d", "q", "backspace", "enter") == Steering(selected="a", search="d")
    assert steered("/", "d", "escape").search == ""
    assert steered("/", "d", "enter", "r", "escape") == Steering(selected="a")
    assert steered("q").ended
    assert steered("d", begin=Steering()).asking == "", "nothing is selected"


@pytest.mark.parametrize(
    ("calls", "reserved", "limit", "want"),
    [
        (0, 0, 10, "··········"),
        (5, 2, 10, "█████▒▒···"),
        (10, 0, 10, "██████████"),
        (1, 1, 1000, "█▒········"),
        (999, 1, 1000, "██████████"),
        (20, 5, 10, "██████████"),
        (1, 0, 0, "no limit  "),
    ],
)
def test_bars(calls: int, reserved: int, limit: int, want: str) -> None:
    assert screen.bar(node("a", calls=calls, reserved=reserved, calls_max=limit), 10).plain == want


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 140), (20, 6)])
def test_it_fits_every_terminal(size: tuple[int, int]) -> None:
    width, height = size
    nodes = [node(f"node-{i:03}", reason="x" * 300, problem="\x1b[2J") for i in range(100)]
    nodes.append(node("w", region="\x1b[2Jwest" * 9))
    seen = fleet(1000, nodes, place_east=4)
    past = (history.sample(None, fleet(0, nodes)), history.sample(fleet(0, nodes), seen))
    view = screen.View(seen, past, "", time.monotonic())
    steering = Steering(selected="node-077", search="\x1b[2J" * 30)
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height)
    console.print(screen.draw(view, nodes, steering, width, height))
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any(line.startswith("node-077") for line in lines)
    assert "\x1b" not in stream.getvalue()


def test_keys_typed_at_once_are_all_read() -> None:
    typed, keys = b"\x1b[A\x1bOBd\x1b[15~\x1b\r\xff", []
    while typed:
        key, typed = first_key(typed)
        keys.append(key)
    assert keys == ["up", "down", "d", "", "escape", "enter", "\ufffd"]


@contextmanager
def terminal(stand: Stand, width: int = 80, height: int = 24, **env: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
    before = termios.tcgetattr(follower)
    # A size in the environment (readline puts it there) would be that of another terminal.
    ours = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.cli", "top", "-w", "0.2"],
        cwd=ROOT,
        env={**ours, "PBXCTL_CONFIG": str(stand.file), "TERM": "xterm", **env},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    try:
        yield Terminal(leader, follower, process, before)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


class Terminal:
    def __init__(
        self, leader: int, follower: int, process: subprocess.Popen[bytes], before: object
    ) -> None:
        self.leader, self.follower, self.process = leader, follower, process
        self.before = before
        self.text = ""

    def until(self, pattern: str) -> None:
        """Reads until the output since the last match has the pattern."""
        deadline = time.monotonic() + 15
        while not (match := re.search(pattern, self.text, re.S)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[-3000:]!r}"
            if select.select([self.leader], [], [], 0.1)[0]:
                self.text += os.read(self.leader, 65536).decode("utf-8", "replace")
        self.text = self.text[match.end() :]

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def restored(self) -> bool:
        return termios.tcgetattr(self.follower) == self.before


def test_keys_select_drain_and_quit(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e1", 7))
    with terminal(stand) as t:
        t.until("3 nodes: .*7\\+0/100")
        assert not t.restored()
        t.press("\x1b[Bd")
        t.until(r"drain e2\? \(y/n\)")
        t.press("y")
        t.until("e2 is draining now")
        t.press("r")
        t.until("region east")
        t.press("s")
        t.until("sort load")
        t.press("r")
        t.press("r")
        t.press("/w1\r")
        t.until("region all  filter w1")
        t.press("q")
        assert t.process.wait(5) == 0
        t.until(re.escape("\x1b[?1049l"))
        assert t.restored()
    assert pbxctl("nodes", "show", "e2", "-o", "json").json["want"] == "draining"


def test_anything_but_y_drains_nothing(stand: Stand, pbxctl: Pbxctl) -> None:
    with terminal(stand) as t:
        t.until("3 nodes")
        t.press("d")
        t.until(r"drain e1\?")
        t.press("n")
        t.until("not drained")
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["want"] == "active"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_restored_by_signals(stand: Stand, number: signal.Signals) -> None:
    with terminal(stand) as t:
        t.until("3 nodes")
        t.process.send_signal(number)
        # Read first: a program waits for its terminal to take what it wrote.
        t.until("\x1b\\[\\?25h.*\x1b\\[\\?1049l")  # cursor shown, the screen of before
        t.process.wait(5)
        assert t.restored()


def test_it_follows_a_resize(stand: Stand) -> None:
    with terminal(stand) as t:
        t.until("SILENT")
        fcntl.ioctl(t.follower, termios.TIOCSWINSZ, struct.pack("4H", 12, 45, 0, 0))
        os.killpg(t.process.pid, signal.SIGWINCH)
        t.until("\x1b.H(?:(?!SILENT).)*NODE(?:(?!SILENT).)*FILLED")


def test_a_terminal_that_cannot_be_drawn_on_gets_a_list_of_its_width(stand: Stand) -> None:
    with terminal(stand, width=30, TERM="dumb") as t:
        t.until(r"^[^\x1b]*NODE[^\x1b]*w1[^\x1b]*NODE +STATE +LOAD +CALLS *\r\n")


def test_a_terminal_without_bars_gets_a_list(stand: Stand) -> None:
    with terminal(stand, PYTHONIOENCODING="latin-1") as t:
        t.until("every 0.2 s.*NODE.*w1.*every 0.2 s")


def test_without_a_terminal_it_is_a_list(stand: Stand, pbxctl: Pbxctl) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.cli", "top", "-w", "0.2"],
        cwd=ROOT,
        env={**os.environ, "PBXCTL_CONFIG": str(stand.file)},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    try:
        seen = [process.stdout.readline().split()[:1] for _ in range(8)]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert seen == [["NODE"], ["e1"], ["e2"], ["w1"]] * 2
