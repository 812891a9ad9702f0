"""`make screens`: docs/screens/README.md, what a fleet's commands print, from a real terminal.

Four nodes with encrypted calls; one is killed and one drained on the way. Each screen is a tmux
window of its own size, taken as it stands. Names of machines come from the UTS namespace in which
the Makefile starts this.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.lab.asterisk import Asterisk
from tests.lab.fleet import REPOSITORY
from tests.lab.freeswitch import FreeSwitch, freeswitch_binary
from tests.lab.lab import Lab
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.until import until

PAGE = REPOSITORY / "docs" / "screens" / "README.md"
EDGE, KILLED, DRAINED = "edge-1", "east-1", "west-1"
SPEECH = "demo-nogo"  # 10.5 s, after which the call ends
RATE_PER_S = 2.0
BEFORE_S, AFTER_S = 20.0, 12.0
HEAD = """\
# Screens

What the commands print, taken by `make screens` from a terminal on a running fleet: an Asterisk
edge, three nodes in two regions, encrypted calls of ten seconds at {rate:g} a second.
"""


@dataclass
class Screen:
    """A tmux server of its own with one window; `$ ` is the prompt."""

    folder: Path
    config: Path
    width: int
    height: int
    name: str = field(default_factory=lambda: f"pbxctl-{secrets.token_hex(4)}")

    def __enter__(self) -> Screen:
        bin_folder = REPOSITORY / ".venv" / "bin"
        env = {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "PBXCTL_CONFIG": str(self.config),
            "PS1": "$ ",
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
        }
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", str(self.width), "-y", str(self.height),
            "-c", str(self.folder), "bash", "--norc", "--noprofile", env=env,
        )  # fmt: skip
        try:
            until(lambda: self.text().startswith("$"), 5, "a prompt")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def _tmux(self, *words: str, env: dict[str, str] | None = None) -> str:
        return subprocess.run(
            ["tmux", "-u", "-L", self.name, *words],
            env=env, capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip

    def press(self, keys: str) -> None:
        self._tmux("send-keys", "-l", keys)

    def type(self, line: str) -> None:
        self.press(line)
        self._tmux("send-keys", "Enter")

    def run(self, line: str) -> None:
        """Until the prompt is back."""
        prompts = self.text().count("\n$")
        self.type(line)
        until(lambda: self._ended(prompts), 30, f"the end of {line}")

    def _ended(self, prompts: int) -> bool:
        text = self.text()
        return text.rstrip().endswith("\n$") and text.count("\n$") > prompts

    def text(self) -> str:
        lines = self._tmux("capture-pane", "-p").split("\n")
        return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"

    def shown(self) -> str:
        """The screen without the prompt that waits."""
        return self.text().rstrip().removesuffix("\n$")


class Screens:
    def __init__(self, fleet: PhoneFleet) -> None:
        self._fleet = fleet
        self._parts: list[str] = []

    def on(self, width: int, height: int) -> Screen:
        return Screen(self._fleet.folder, self._fleet.config_path, width, height)

    def add(self, title: str, said: str, screen: str) -> None:
        self._parts.append(f"\n## {title}\n\n{said}\n\n```\n{screen}\n```\n")

    def commands(self, title: str, said: str, *lines: str, width: int = 100) -> None:
        with self.on(width, 60) as screen:
            for line in lines:
                screen.run(line)
            self.add(title, said, screen.shown())

    def write(self) -> None:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(HEAD.format(rate=RATE_PER_S) + "".join(self._parts))


@contextlib.contextmanager
def calling(edge: Asterisk) -> Iterator[None]:
    """Callers at the edge, whose dialplan asks its agent, while the block lasts."""
    done = threading.Event()

    def main() -> None:
        began = time.monotonic()
        for count in itertools.count(1):
            if done.wait(max(0.0, count / RATE_PER_S - (time.monotonic() - began))):
                return
            edge.ami(
                "Action: Originate\r\nChannel: Local/9500@pbxctl-ask\r\nApplication: Playback\r\n"
                f"Data: {SPEECH}\r\nAsync: true\r\n"
            )

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def fleet() -> Iterator[PhoneFleet]:
    with Lab() as lab:
        nodes: dict[Asterisk | FreeSwitch, str] = {
            lab.asterisk(EDGE): "south",
            lab.asterisk(KILLED): "east",
            lab.asterisk("east-2"): "east",
            lab.freeswitch(DRAINED) if freeswitch_binary() else lab.asterisk(DRAINED): "west",
        }
        settings = {
            "metrics": {"host": lab.address(), "first_port": 9460},
            "numbers": [{"prefix": "95", "service": "echo", "regions": ["east", "west"]}],
            "placement": {"ramp_s": 4, "spill_above": 0.5, "reservation_s": 2},
        }
        with PhoneFleet(lab, nodes, lab.redis(), encrypted=True, settings=settings) as fleet:
            document = yaml.safe_load(fleet.config_path.read_text())
            for name, told in document["nodes"].items():
                told |= {"calls_max": 60 if name == EDGE else 15, "edge": name == EDGE}
            fleet.config_path.write_text(yaml.safe_dump(document))
            fleet.begin()
            yield fleet


def take(fleet: PhoneFleet) -> Screens:
    screens = Screens(fleet)
    edge = fleet.nodes[EDGE]
    assert isinstance(edge, Asterisk)
    with calling(edge), screens.on(110, 24) as wide, screens.on(60, 20) as narrow:
        wide.type("pbxctl top")
        narrow.type("pbxctl top")
        time.sleep(BEFORE_S)
        screens.commands(
            "A call", "Which node took it and why, and whether its media is encrypted.",
            "C=$(pbxctl calls list --node east-2 -o name | tail -1)",
            "pbxctl calls why $C", "pbxctl calls show $C",
        )  # fmt: skip
        screens.commands(
            "Where a call would go", "`--dry-run` is the default: nothing is reserved.",
            "pbxctl route 9500 --region east", "pbxctl nodes drain east-2 --dry-run",
        )  # fmt: skip
        fleet.nodes[KILLED].kill()
        wide.press("\x1b[B" * 3 + "d")
        until(lambda: f"drain {DRAINED}? (y/n)" in wide.text(), 5, "the question")
        wide.press("y")
        until(lambda: f"{DRAINED} is draining now" in wide.text(), 8, "the drain")
        time.sleep(AFTER_S)
        screens.add(
            "pbxctl top", f"{KILLED} was killed {AFTER_S:g} s ago, {DRAINED} drained by `d`.",
            wide.text().rstrip(),
        )  # fmt: skip
        screens.add("pbxctl top, 60 columns", "The same fleet.", narrow.text().rstrip())
        screens.commands(
            "The same by commands", "Columns that do not fit are left out; `-o wide` has them all.",
            "pbxctl nodes list", "pbxctl nodes list --state down -o json", width=80,
        )  # fmt: skip
        screens.commands("What is wrong", "Each finding says its fix.", "pbxctl doctor --problems")
        screens.commands(
            "Errors", "Two lines: what happened, what to do next. Under `-o json` one, on stderr.",
            "pbxctl nods list", "pbxctl nodes show east-3", "pbxctl nodes show east-3 -o json",
            "pbxctl --config nowhere.yaml top", "echo $?",
        )  # fmt: skip
        screens.commands("Help", "Every command has examples.", "pbxctl nodes list --help")
    return screens


def main() -> None:
    if shutil.which("tmux") is None:
        sys.exit("screens: tmux is not installed (apt-get install tmux)")
    with fleet() as running:
        take(running).write()
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
