"""A copy of a vault's folder that opens, taken while the vault works; and back again.

Keys are copied after the index and before the bodies: what was erased meanwhile is then without a
key, and every key that is there has its body. A copy of keys opens what is erased later: where and
how long one may lie says docs/operations.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from controller.config import Config
from controller.durable import replace
from controller.errors import VaultError
from controller.vault.slots import Slots

_TRIES = 5
KEYS = "keys.json"
RING = "keyring"
SLOTS = "slots"
_PUBLIC = "public-keys.json"
_INTAKE = "intake"
_STORE = "store"


def bodies_folder(config: Config) -> Path | None:
    """None without a vault section, or where the bodies are in S3."""
    vault = config.vault
    if vault is None or vault.s3 is not None:
        return None
    return config.path(vault.store) if vault.store else config.vault_path / _STORE


def copy_keys(folder: Path, into: Path) -> None:
    """Key file, keyring, key slots and waiting envelopes. Raises VaultError, OSError."""
    into.mkdir(mode=0o700)
    for name in (KEYS, _PUBLIC):
        with contextlib.suppress(FileNotFoundError):
            replace(into / name, (folder / name).read_bytes())
    # A rotation makes new keys, wraps every slot and destroys the old keys: slots belong to the
    # keyring that stood before and after them.
    for _ in range(_TRIES):
        ring = _whole(folder / RING)
        (into / SLOTS).unlink(missing_ok=True)
        _copy_slots(folder / SLOTS, into / SLOTS)
        if _whole(folder / RING) == ring:
            break
    else:
        raise VaultError("the keyring changes all the time", hint="try again after the rotation")
    replace(into / RING, ring)
    if (folder / _INTAKE).is_dir():
        copy_tree(folder / _INTAKE, into / _INTAKE)


def copy_tree(source: Path, into: Path) -> int:
    """Files that are written once and may go meanwhile; how many were copied."""
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    count = 0
    for path in sorted(source.rglob("*")):
        if path.name.startswith(".") or path.suffix == ".new" or not path.is_file():
            continue
        target = into / path.relative_to(source)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, target)
            target.chmod(0o600)
            count += 1
    return count


def _whole(path: Path) -> bytes:
    slots = Slots(path)
    try:
        return b"".join(slots.pieces())
    finally:
        slots.close()


def _copy_slots(source: Path, into: Path) -> None:
    slots = Slots(source)
    try:
        handle = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            for piece in slots.pieces():
                file.write(piece)
            file.flush()
            os.fsync(handle)
    finally:
        slots.close()
