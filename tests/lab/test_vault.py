"""The whole way: a call on a real PBX, sealed on its node, and a file that a person exports."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
import wave
from array import array
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.pki.store import open_store, person
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.recorded import RecordingFleet, alike_share, heard_share, linear
from tests.lab.sipp import speech_file, ulaw_of
from tests.lab.test_recordings import tone
from tests.lab.until import until

pytestmark = pytest.mark.lab


def pbxctl(fleet: RecordingFleet, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "controller.cli", "--config", fleet.config.source, *words]
    return subprocess.run([*command, "--as", "anna"], capture_output=True, text=True, timeout=30)


def listed(fleet: RecordingFleet) -> list[dict[str, Any]]:
    ran = pbxctl(fleet, "recordings", "list", "-o", "json")
    found: list[dict[str, Any]] = json.loads(ran.stdout)["recordings"] if not ran.returncode else []
    return found


@pytest.mark.parametrize(
    "kind", ["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)]
)
def test_what_was_said_comes_out_of_the_vault(kind: str, tmp_path: Path) -> None:
    """The vault is killed while the call is on; nothing of the call is missing in the end."""
    with Lab() as lab, Phone(lab.address()) as phone:
        node = lab.asterisk("n") if kind == "asterisk" else lab.freeswitch("n")
        keys = {"provider": "file", "passphrase_file": str(tmp_path / "passphrase")}
        (tmp_path / "passphrase").write_text("correct horse battery\n")
        (tmp_path / "passphrase").chmod(0o600)
        with RecordingFleet(
            lab, {node: "east"}, phone.sip, vault={"duties": "all", "keys": keys}
        ) as fleet:
            auditor = person("anna", ("auditor",))
            open_store(fleet.config).renew([auditor], dt.datetime.now(dt.UTC))
            fleet.start_all()
            speech = tone(1.0) + ulaw_of(speech_file(lab.run.root))[: 8000 * 4]
            call = phone.call(node.sip, "9500")
            assert call.code == 200
            death = threading.Timer(2.0, partial(fleet.stop, "vault", kill=True))
            death.start()
            call.say(speech)
            call.hang_up()
            death.join()
            fleet.start_vault()
            (one,) = until(
                lambda: [r for r in listed(fleet) if r["state"] == "complete"], 40, "complete"
            )
            file = tmp_path / "call.wav"
            done = pbxctl(fleet, "recordings", "export", one["recording"], "--into", str(file))
            assert done.returncode == 0, done.stderr
            with wave.open(str(file)) as audio:
                samples = array("h", audio.readframes(audio.getnframes()))
                wide = audio.getframerate() == 16_000  # Asterisk's, resampled on its way
            left = samples[::4] if wide else samples[::2]
            share = alike_share if wide else heard_share
            assert share(linear(speech), left) > 0.95
            assert abs(one["length_ms"] - one["call_ms"]) < 700
            assert (one["callee"], one["rule"]) == ("*500", "all-echo")
            assert pbxctl(fleet, "recordings", "verify", one["recording"]).returncode == 0
