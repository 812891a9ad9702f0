"""Killed while it makes the tables: all of them are there afterwards, or none."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from controller.config_file import parse
from controller.records.database import SQLITE_NAME, open_database
from controller.records.reads import ReadingLog

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = 40
CONFIG = """
fleet: test
regions: {east: {}}
nodes: {n: {kind: asterisk, region: east, sip: "127.0.18.1:5060", control: "127.0.18.1:5038",
  password_file: secret}}
state_dir: state
"""
_OPEN = """
import sys
from pathlib import Path
from controller.config_file import load
from controller.records import database
import controller.records.migrations.versions
config = load(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    database.open_database(config).close()
    for path in config.state_path.glob("records.db*"):
        path.unlink()
"""


def test_the_tables_are_made_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("none")
    (tmp_path / "secret").chmod(0o600)
    file = tmp_path / "pbxctl.yaml"
    file.write_text(CONFIG)
    config = parse(CONFIG, str(file))
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    begun = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", _OPEN, str(file)], stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        begun += (config.state_path / SQLITE_NAME).exists()
        database = open_database(config)
        assert ReadingLog(database).find(limit=1) == [], f"seed {seed}"
        database.close()
    assert begun > KILLS // 4, f"seed {seed}: no kill hit what it aims at"
