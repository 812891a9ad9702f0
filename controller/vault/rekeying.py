"""Changes what guards the vault's keys, with the vault stopped: another provider or passphrase.

Killed at any moment, the keyring is wrapped by the one or by the other as a whole, and the same
command does what is left. Bodies, envelopes and key slots stay as they are. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import pwd

import msgspec

from controller.config import Config, read_secret
from controller.config_vault import FileKeys
from controller.errors import LoginRefused, Tampered, UsageError
from controller.records.database import open_database
from controller.records.reads import ReadingLog
from controller.vault.custody import key_file_path, open_provider
from controller.vault.keys import file
from controller.vault.keys.keyring import Keyring


class Rekeyed(msgspec.Struct, frozen=True):
    """before, after: the providers. what: `passphrase` for a new passphrase of the same key file,
    else `keyring`. done: false where it was done already, or by --dry-run."""

    before: str
    after: str
    what: str
    keys: int
    done: bool
    dry_run: bool


def rekey(old: Config, new: Config, *, dry_run: bool = False) -> Rekeyed:
    """From what `old` names as vault.keys to what `new` does.

    Raises UsageError where the two are not of one vault, VaultError while a vault runs,
    LoginRefused or Unreachable for a provider, RecordsUnreachable where it cannot be logged:
    nothing has changed then.
    """
    ring_path = old.vault_path / "keyring"
    if old.vault_path != new.vault_path:
        raise UsageError(
            f"the new config has its keys in {new.vault_path}, not in {old.vault_path}",
            hint="change vault.keys alone",
        )
    if not ring_path.exists():
        raise UsageError(f"there is no {ring_path}", hint="start the vault once, on its machine")
    owner = ring_path.stat().st_uid
    if owner != os.geteuid():  # what it wrote would be another's, and the vault would not start
        raise UsageError(
            f"{ring_path} belongs to {_name(owner)}",
            hint=f"run it as that user: sudo -u {_name(owner)}",
        )
    if _same_file(old, new):
        return _passphrase(old, new, dry_run)
    with contextlib.ExitStack() as ends:
        before = open_provider(old, make=False)
        ends.callback(before.close)
        ring = Keyring(ring_path, before, writable=True)  # refused while a vault runs
        ends.callback(ring.close)
        after = open_provider(new, make=not dry_run)
        ends.callback(after.close)
        outcome = Rekeyed(before.name, after.name, "keyring", ring.wrapped, not dry_run, dry_run)
        if _opens(ring):
            if not dry_run:
                _log(old, f"vault keys from {before.name} to {after.name}")
                ring.change_provider(after)
            return outcome
        ring.close()
        again = Keyring(ring_path, after, writable=True)
        ends.callback(again.close)
        if not _opens(again):
            raise LoginRefused(
                "neither the keys of the old config nor those of the new one open the keyring",
                hint="is the old config the one that the vault last ran with?",
            )
        return msgspec.structs.replace(outcome, done=False)


def _passphrase(old: Config, new: Config, dry_run: bool) -> Rekeyed:
    path = key_file_path(new)
    was, wanted = _passphrase_of(old), _passphrase_of(new)
    with contextlib.ExitStack() as ends:
        try:
            provider = open_provider(old, make=False)
        except LoginRefused:
            open_provider(new, make=False).close()  # neither opens it: raises
            return Rekeyed("file", "file", "passphrase", 0, False, dry_run)
        ends.callback(provider.close)
        ring = Keyring(old.vault_path / "keyring", provider, writable=True)
        ends.callback(ring.close)
        done = was != wanted and not dry_run
        if done:
            _log(old, "vault keys under a new passphrase")
            file.change_passphrase(path, was, wanted)
        return Rekeyed("file", "file", "passphrase", ring.wrapped, done, dry_run)


def _same_file(old: Config, new: Config) -> bool:
    ours = [config.vault.keys for config in (old, new) if config.vault]
    return all(isinstance(k, FileKeys) for k in ours) and key_file_path(old) == key_file_path(new)


def _passphrase_of(config: Config) -> str:
    assert config.vault and isinstance(config.vault.keys, FileKeys)  # noqa: S101 - _same_file
    return read_secret(config.path(config.vault.keys.passphrase_file))


def _opens(ring: Keyring) -> bool:
    try:
        return bool(ring.private_key(ring.pairs()[0].id))
    except Tampered:
        return False


def _log(config: Config, what: str) -> None:
    """Where the reads stand: before anything changes, or nothing does."""
    database = open_database(config)
    try:
        ReadingLog(database).write(
            f"user:{_name(os.getuid())}", "", "this machine", "vault.rekey", "", what
        )
    finally:
        database.close()


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
