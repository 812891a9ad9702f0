"""pbxctl recordings and vault against a vault in its own process."""

from __future__ import annotations

import json
import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.cli.picture import drawn
from controller.cli.times import length, moment, place
from controller.errors import UsageError
from controller.vault.header import Particulars
from tests.sealed import Recording, plain, tone
from tests.unit.cli.conftest import Pbxctl
from tests.vault_server import VaultServer


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    with VaultServer(tmp_path_factory.mktemp("v")) as server:
        yield server


@pytest.fixture(scope="module")
def made(vault: VaultServer) -> Recording:
    said = Particulars("call-1\x1b[2J", "+4930111", "4001", "sales", 30)
    return vault.recorded(vault.agent("n1").sealed(tone(10), particulars=said))


@pytest.fixture
def cli(bare: Pbxctl, vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> Pbxctl:
    monkeypatch.setenv("PBXCTL_CONFIG", str(vault.file))
    monkeypatch.setenv("PBXCTL_AS", "both")
    return bare


def audio(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        return bytes(file.readframes(file.getnframes()))


def test_list_and_show(cli: Pbxctl, made: Recording) -> None:
    seen = cli("recordings", "list", "-o", "json", "--since", "1h").json["recordings"]
    assert made.id in [r["recording"] for r in seen]
    assert cli("recordings", "list", "--until", "1h", "-o", "name").out == ""
    table = cli("recordings", "list", "--rule", "sales").out
    assert made.id in table
    assert "*****111" in table
    assert "+4930111" not in table
    assert "\x1b" not in table, "a hostile call id must not reach the terminal"
    shown = cli("recordings", "show", made.id, "--peaks").out
    assert "+4930111" in shown
    assert "0:10" in shown
    assert "█" in shown or "▇" in shown


def test_a_person_without_the_role_is_refused(cli: Pbxctl, made: Recording) -> None:
    ran = cli("recordings", "export", made.id, "--as", "olga", "-o", "json")
    assert (ran.code, ran.error["kind"]) == (4, "CommandRefused")
    assert "auditor" in ran.error["hint"]
    assert not list(Path().glob("*.wav*"))


def test_who_asks_must_be_said(cli: Pbxctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PBXCTL_AS")
    ran = cli("recordings", "list", "-o", "json")
    assert (ran.code, "--as NAME" in ran.error["hint"]) == (2, True)
    ran = cli("recordings", "list", "--as", "nobody", "-o", "json")
    assert (ran.code, ran.error["message"][:6]) == (2, "nobody")


def test_export_is_a_wav_of_what_was_said(cli: Pbxctl, made: Recording, tmp_path: Path) -> None:
    done = cli("recordings", "export", made.id, "-o", "json")
    assert (done.code, done.json["bytes"]) == (0, 44 + len(made.plain))
    file = Path(f"{made.id}.wav")
    assert audio(file) == made.plain
    assert file.stat().st_mode & 0o777 == 0o600
    piece = tmp_path / "p" / "piece.wav"
    assert cli("recordings", "export", made.id, "--into", str(piece), "--from", "0:02.5",
               "--to", "4").code == 0  # fmt: skip
    assert audio(piece) == made.plain[80_000:128_000]
    assert cli("recordings", "export", made.id, "--from", "5", "--to", "5").code == 2


def test_export_never_writes_over_a_file_unasked(cli: Pbxctl, made: Recording) -> None:
    file = Path("kept.wav")
    file.write_text("mine")
    ran = cli("recordings", "export", made.id, "--into", "kept.wav")
    assert (ran.code, "--yes" in ran.err) == (2, True)
    assert file.read_text() == "mine"
    assert cli("recordings", "export", made.id, "--into", "kept.wav", "--dry-run").code == 0
    assert file.read_text() == "mine"
    assert cli("recordings", "export", made.id, "--into", "kept.wav", "--yes").code == 0
    assert audio(file) == made.plain


def test_of_a_damaged_one_nothing_stays_and_the_segment_is_named(
    cli: Pbxctl, vault: VaultServer
) -> None:
    bad = vault.recorded(vault.agent("n1").sealed(plain(150.5)))
    body = vault.folder / "state/vault/store/bodies" / bad.id[:2] / bad.id
    raw = bytearray(body.read_bytes())
    raw[56 + 130 * 16400] ^= 1
    body.write_bytes(raw)
    ran = cli("recordings", "export", bad.id, "-o", "json")
    assert (ran.code, ran.error["kind"]) == (4, "Tampered")
    assert "segment 130" in ran.error["message"]
    assert list(Path().iterdir()) == [] or not [p for p in Path().iterdir() if bad.id in p.name]
    ran = cli("recordings", "verify", bad.id, "-o", "json")
    assert (ran.code, ran.json[0]["bad"]) == (1, [130])
    assert cli("vault", "check", "-o", "json").json["lost_count"] == 1


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg (Debian: ffmpeg)")
def test_opus_by_ffmpeg(cli: Pbxctl, made: Recording) -> None:
    assert cli("recordings", "export", made.id, "--opus").code == 0
    asked = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name:format=duration",
             "-of", "default=nk=1:nw=1", f"{made.id}.opus"]  # fmt: skip
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "opus"
    assert float(said[1]) == pytest.approx(10, abs=0.1)


def test_opus_without_ffmpeg_says_so(
    cli: Pbxctl, made: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ran = cli("recordings", "export", made.id, "--opus", "-o", "json")
    assert (ran.code, "ffmpeg" in ran.error["message"]) == (2, True)
    assert not list(Path().glob("*opus*"))


def test_hold_erase_and_the_record(cli: Pbxctl, vault: VaultServer) -> None:
    one = vault.recorded(vault.agent("n1").sealed(tone(1)))
    assert cli("recordings", "hold", one.id).code == 2
    assert cli("recordings", "hold", one.id, "--reason", "case 1", "-o", "json").json["holds"] == 1
    refused = cli("recordings", "erase", one.id, "--reason", "asked", "--yes", "-o", "json")
    assert (refused.code, "--lift" in refused.error["hint"]) == (4, True)
    assert cli("recordings", "hold", one.id, "--lift", "--yes").code == 0
    assert cli("recordings", "erase", one.id, "--reason", "asked").code == 2, "nobody confirmed"
    done = cli("recordings", "erase", one.id, "--reason", "asked", "--yes", "-o", "json")
    assert done.json["state"] == "erased"
    assert '"reason":"cert:both: asked"' in cli("recordings", "show", one.id).out
    assert cli("recordings", "export", one.id).code == 2


def test_all_of_one_person(cli: Pbxctl, vault: VaultServer, tmp_path: Path) -> None:
    said = Particulars("c", "+49 40 999", "4001", "sales", 30)
    mine = [vault.recorded(vault.agent("n1").sealed(tone(1), particulars=said)) for _ in range(2)]
    folder = tmp_path / "theirs"
    ran = cli("recordings", "person", "+4940999", "--export", str(folder), "-o", "name")
    assert (ran.code, set(ran.out.split())) == (0, {one.id for one in mine})
    index = json.loads((folder / "recordings.json").read_text())
    assert {entry["caller"] for entry in index} == {"+49 40 999"}
    for one in mine:
        assert audio(folder / f"{one.id}.wav") == one.plain
    ran = cli("recordings", "person", "+4940999", "--export", str(tmp_path / "x"), "--as", "carl")
    assert ran.code == 4, "a custodian may not listen"
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["recordings.json"]
    assert cli("recordings", "person", "+4940999", "--as", "olga").code == 4


def test_kept_reads_and_status(cli: Pbxctl, made: Recording) -> None:
    kept = cli("recordings", "kept", "-o", "json").json["kept"]
    assert "sales" in {k["rule"] for k in kept}
    cli("recordings", "verify", made.id)
    reads = cli("recordings", "reads", "--recording", made.id, "-o", "json").json["reads"]
    assert reads[0]["action"] == "log"
    assert ("verify", "cert:both") in {(r["action"], r["who"]) for r in reads}
    assert "verify" in cli("recordings", "reads").out
    status = cli("vault", "status", "-o", "json").json
    assert (status["provider"], status["bad_envelopes"], status["rotating"]) == ("file", 0, False)
    assert "sealed to" in cli("vault", "status").out


def test_rotate(cli: Pbxctl, made: Recording) -> None:
    before = cli("vault", "status", "-o", "json").json
    assert cli("vault", "rotate", "--as", "anna", "--yes").code == 4
    assert cli("vault", "rotate").code == 2
    dry = cli("vault", "rotate", "--dry-run", "-o", "json").json
    assert (dry["changed"], dry["dry_run"]) == (0, True)
    done = cli("vault", "rotate", "--yes", "-o", "json").json
    assert done["changed"] == before["slots"]
    after = cli("vault", "status", "-o", "json").json
    assert after["pairs"] == [done["pair"], *before["pairs"]]
    assert cli("recordings", "export", made.id).code == 0
    assert cli("vault", "rotate", "--no-pair", "--yes", "-o", "json").json["pair"] == ""


def test_a_vault_that_is_away(
    bare: Pbxctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = VaultServer(tmp_path)
    monkeypatch.setenv("PBXCTL_CONFIG", str(away.file))
    ran = bare("recordings", "list", "--as", "olga", "-o", "json")
    assert (ran.code, "vault" in ran.error["message"]) == (3, True)


def test_times_as_people_write_them() -> None:
    assert (place("90"), place("1:30"), place("1:02:03.5")) == (90_000, 90_000, 3_723_500)
    assert moment("2h", 10_000) == 2_800_000
    assert moment("1970-01-02T00:00:00+00:00", 0) == 86_400_000
    assert (length(3_723_000), length(59_600)) == ("1:02:03", "1:00")
    for wrong in ("", "x", "1:2:3:4", "-5"):
        with pytest.raises(UsageError):
            place(wrong)
    for wrong in ("x", "2y", "2026-13-01"):
        with pytest.raises(UsageError):
            moment(wrong, 0)


def test_the_picture_shows_silence_and_noise() -> None:
    lines = drawn([(0, 32768), (100, 16384), (32768, 0)] * 4, 12_000)
    assert lines[0][0] == " "
    assert lines[1][0] == "█"
    assert lines[0][1] in "▁▂"
    assert lines[2].endswith("0:12")
