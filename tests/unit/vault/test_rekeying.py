"""Other guards for the same keys: files, passphrases, an HSM's place; killed at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.config import Config
from controller.config_file import parse
from controller.errors import LoginRefused, PbxctlError, UsageError, VaultError
from controller.records.database import open_database
from controller.records.reads import ReadingLog
from controller.vault.custody import open_custody
from controller.vault.keys import file
from controller.vault.rekeying import rekey

REPOSITORY = Path(__file__).resolve().parents[3]
OLD, NEW = "correct horse battery", "quite another horse"
CONFIG = """
fleet: test
regions: {{east: {{}}}}
nodes: {{n: {{kind: asterisk, region: east, sip: "127.0.18.1:5060", control: "127.0.18.1:5038",
  password_file: old}}}}
state_dir: state
vault: {{folder: {folder}, keys: {{provider: file, passphrase_file: {passphrase}{file}}}}}
"""


def config(place: Path, passphrase: str, key_file: str = "", folder: str = "vault") -> Config:
    named = f", file: {key_file}" if key_file else ""
    text = CONFIG.format(folder=folder, passphrase=passphrase, file=named)
    path = place / f"{passphrase}{key_file}.yaml"
    path.write_text(text)
    return parse(text, str(path))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A vault that ran: keys.json, a pair, KEKs and a secret."""
    (tmp_path / "old").write_text(OLD)
    (tmp_path / "new").write_text(NEW)
    (tmp_path / "old").chmod(0o600)
    (tmp_path / "new").chmod(0o600)
    (tmp_path / "state").mkdir()
    (tmp_path / "vault").mkdir()
    # scrypt's cost is tested where it is made
    file.create(tmp_path / "vault" / "keys.json", OLD, log_n=14)
    file.create(tmp_path / "keys-2.json", NEW, log_n=14)
    custody = open_custody(config(tmp_path, "old"))
    custody.tags_key()
    for month in range(40):
        custody.keyring.kek("t", f"2027-{month}", month)
    custody.close()
    return tmp_path


def held(config: Config) -> tuple[bytes, bytes, int]:
    """What the vault can open with this config; raises as its start would."""
    custody = open_custody(config)
    try:
        pair = custody.keyring.private_key(custody.keyring.pairs()[0].id)
        for kek in custody.keyring.keks():
            custody.keyring.cipher(kek, "t")
        return pair, custody.tags_key(), len(custody.keyring.keks())
    finally:
        custody.close()


def reads(config: Config) -> list[tuple[str, str]]:
    database = open_database(config)
    try:
        return [(r.action, r.detail) for r in ReadingLog(database).find(limit=10)]
    finally:
        database.close()


def test_another_key_file_opens_all_and_the_old_one_nothing(place: Path) -> None:
    old, new = config(place, "old"), config(place, "new", "keys-2.json")
    before = held(old)
    assert rekey(old, new, dry_run=True).keys == 42
    assert held(old) == before, "a dry run changes nothing"
    assert not reads(old)
    done = rekey(old, new)
    assert (done.what, done.keys, done.done) == ("keyring", 42, True)
    assert held(new) == before
    with pytest.raises(PbxctlError):
        held(old)
    assert reads(new) == [("vault.rekey", "vault keys from file to file")]
    again = rekey(old, new)
    assert not again.done
    assert len(reads(new)) == 1, "what was done before is not logged as done"


def test_a_new_passphrase_for_the_same_key(place: Path) -> None:
    old, new = config(place, "old"), config(place, "new")
    before = held(old)
    assert rekey(old, new).what == "passphrase"
    assert held(new) == before
    with pytest.raises(LoginRefused):
        held(old)
    assert not rekey(old, new).done
    assert reads(new) == [("vault.rekey", "vault keys under a new passphrase")]


def test_a_key_file_that_is_not_there_is_made(place: Path) -> None:
    old, new = config(place, "old"), config(place, "new", "keys-3.json")
    before = held(old)
    with pytest.raises(VaultError):
        rekey(old, new, dry_run=True)
    assert not (place / "keys-3.json").exists()
    rekey(old, new)
    assert held(new) == before
    assert (place / "keys-3.json").stat().st_mode & 0o777 == 0o600


def test_not_while_the_vault_runs(place: Path) -> None:
    old, new = config(place, "old"), config(place, "new", "keys-2.json")
    custody = open_custody(old)
    try:
        for other in (new, config(place, "new")):
            with pytest.raises(VaultError, match="another process"):
                rekey(old, other)
    finally:
        custody.close()
    assert not reads(old)


def test_neither_of_two_wrong_ones(place: Path) -> None:
    (place / "third").write_text("a passphrase of nobody")
    (place / "third").chmod(0o600)
    for name in ("a.json", "b.json"):
        file.create(place / name, NEW, log_n=14)
    wrong, other = config(place, "new", "a.json"), config(place, "new", "b.json")
    with pytest.raises(LoginRefused, match="neither"):
        rekey(wrong, other)
    with pytest.raises(LoginRefused):
        rekey(config(place, "third"), config(place, "new"))
    with pytest.raises(UsageError, match="keys in"):
        rekey(config(place, "old"), config(place, "new", "a.json", folder="elsewhere"))


_REKEY = """
import sys
from pathlib import Path
from controller.config_file import load
from controller.vault.rekeying import rekey
old, new = load(Path(sys.argv[1])), load(Path(sys.argv[2]))
print("ready", flush=True)
while True:
    rekey(old, new)
    rekey(new, old)
"""


# a new passphrase costs scrypt in full each time
@pytest.mark.parametrize(("key_file", "kills", "within_s"), [("keys-2.json", 30, 0.4), ("", 8, 4)])
def test_killed_at_random_moments(place: Path, key_file: str, kills: int, within_s: float) -> None:
    """One of the two configs opens everything, and the command does what is left."""
    old, new = config(place, "old"), config(place, "new", key_file)
    before = held(old)
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    found: set[str] = set()
    tries = 0
    while tries < kills or (len(found) < 2 and tries < 3 * kills):
        tries += 1
        if tries > kills:
            within_s *= 1.25  # the machine is slow, or it was chance
        process = subprocess.Popen(
            [sys.executable, "-c", _REKEY, old.source, new.source],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, within_s))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        opened = []
        for name, one in (("old", old), ("new", new)):
            try:
                assert held(one) == before
                opened.append(name)
            except (LoginRefused, PbxctlError):
                pass
        assert len(opened) == 1, f"seed {seed}: {opened}"
        found.add(opened[0])
    rekey(old, new)
    assert held(new) == before
    assert found == {"old", "new"}, f"seed {seed}: the kills hit one side alone"
