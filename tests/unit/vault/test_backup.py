"""A vault is saved while it works, lost, and put back: what was kept is heard, erased is gone."""

from __future__ import annotations

import secrets
import shutil
import threading
from pathlib import Path

import pytest

from controller.api.recording_shapes import EraseAsk, RecordingAction, Recordings
from controller.cli.main import run
from controller.errors import PbxctlError, VaultError
from controller.vault import key_slots
from controller.vault.copying import copy_keys
from controller.vault.slots import Slots
from controller.vault.slots_writing import WritableSlots
from tests.sealed import tone
from tests.unit.vault.test_vault_role import heard
from tests.vault_server import VaultServer


def pbxctl(server: VaultServer, *words: str | Path) -> int:
    return run(["--config", str(server.file), *map(str, words)])


def test_what_was_saved_is_heard_in_an_empty_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, saved = tmp_path / "fleet", tmp_path / "saved"
    folder.mkdir()
    with VaultServer(folder) as vault:
        kept = vault.recorded(vault.agent("n1").sealed(tone(3)))
        erased = vault.recorded(vault.agent("n1").sealed(tone(1)))
        ask = EraseAsk("asked for")
        vault.person("carl").post(RecordingAction, "recordings", erased.id, "erase", body=ask)
        assert pbxctl(vault, "backup", saved) == 0
        late = vault.recorded(vault.agent("n1").sealed(tone(1)))
        assert pbxctl(vault, "backup", saved) == 2, "nothing is overwritten"
        assert pbxctl(vault, "restore", saved, "--into", folder) == 2
    assert "is there already" in capsys.readouterr().err
    folder.rename(tmp_path / "lost")
    assert run(["restore", str(saved), "--into", str(folder)]) == 0
    for path in (folder / "secret", folder / "state/records.db", folder / "state/vault/slots"):
        assert path.stat().st_mode & 0o077 == 0, path
    vault.start()
    try:
        anna = vault.person("anna")
        assert heard(anna, kept.id) == kept.plain
        found = {r.recording for r in anna.get(Recordings, "recordings").recordings}
        assert kept.id in found and late.id not in found
        with pytest.raises(PbxctlError):
            heard(anna, erased.id)
        again = vault.recorded(vault.agent("n1").sealed(tone(1)))
        assert heard(anna, again.id) == again.plain
    finally:
        vault.stop()


def test_saved_keys_undo_an_erasure_for_as_long_as_the_key_file_lives(
    tmp_path: Path,
) -> None:
    """As docs/operations.md warns: it is the provider's key that makes an old copy useless."""
    folder, saved = tmp_path / "fleet", tmp_path / "saved"
    folder.mkdir()
    with VaultServer(folder) as vault:
        made = vault.recorded(vault.agent("n1").sealed(tone(1)))
        assert pbxctl(vault, "backup", saved) == 0
        ask = EraseAsk("asked for")
        vault.person("carl").post(RecordingAction, "recordings", made.id, "erase", body=ask)
    shutil.rmtree(folder)
    assert run(["restore", str(saved), "--into", str(folder)]) == 0
    vault.start()
    try:
        assert heard(vault.person("anna"), made.id) == made.plain
    finally:
        vault.stop()
    shutil.rmtree(folder)
    (saved / "vault" / "keys.json").unlink()  # kept elsewhere, and destroyed since
    assert run(["restore", str(saved), "--into", str(folder)]) == 0
    with pytest.raises(AssertionError, match="key file"):
        vault.start()


class Torn(Slots):
    """Whose first look at a piece meets a write that is half done in each slot."""

    def _raw(self, first: int, count: int) -> bytes:
        raw = bytearray(super()._raw(first, count))
        if count > 1:
            raw[100 :: self.slot_bytes] = bytes(len(raw[100 :: self.slot_bytes]))
        return bytes(raw)


def test_a_slot_that_is_being_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    key_slots.make(path)
    slots = WritableSlots(path)
    slots.write_many([(bytes([n]) * 16, bytes([n]) * 90) for n in range(1, 200)])
    slots.close()
    torn = Torn(path)
    assert b"".join(torn.pieces()) == path.read_bytes()
    torn.close()


def test_slots_are_not_copied_with_a_keyring_that_changed_meanwhile(tmp_path: Path) -> None:
    work = tmp_path / "vault"
    work.mkdir()
    for name in ("slots", "keyring"):
        key_slots.make(work / name)
    ring, slots = WritableSlots(work / "keyring"), WritableSlots(work / "slots")
    slots.write_many([(n.to_bytes(16), b"1" * 90) for n in range(30_000)])
    over = threading.Event()

    def rotate() -> None:
        while not over.is_set():
            ring.write(secrets.token_bytes(16), b"key")

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        with pytest.raises(VaultError, match="changes all the time"):
            copy_keys(work, tmp_path / "torn")
    finally:
        over.set()
        thread.join()
    copy_keys(work, tmp_path / "whole")
    for name in ("slots", "keyring"):
        assert (tmp_path / "whole" / name).read_bytes() == (work / name).read_bytes()


def test_a_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    assert run(["restore", str(tmp_path), "--into", str(tmp_path / "x")]) == 2


def test_what_cannot_be_restored_whole_is_not_begun(tmp_path: Path) -> None:
    """Records of another fleet where the config says; a secret that was no part of the backup."""
    saved, state, folder = tmp_path / "saved", tmp_path / "state", tmp_path / "fleet"
    (saved / "config").mkdir(parents=True)
    state.mkdir()
    (saved / "config" / "pbxctl.yaml").write_text(
        f"fleet: f\nregions: {{east: {{}}}}\nstate_dir: {state}\nnodes:\n  e1: {{kind: asterisk, "
        f"region: east, sip: 'h:1', control: 'h:9', password_file: {tmp_path / 'elsewhere'}}}\n"
    )
    (state / "records.db").touch()
    assert run(["restore", str(saved), "--into", str(folder)]) == 2
    assert not folder.exists()
    (state / "records.db").unlink()
    assert run(["restore", str(saved), "--into", str(folder)]) == 0
    assert (folder / "pbxctl.yaml").is_file()
