"""The vault: its secrets, its folder, its room, and whether it answers."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from controller.config import Config, split_address
from controller.config_vault import FileKeys, Pkcs11Keys, VaultConfig
from controller.doctor.finding import Finding, fail, ok, warn
from controller.doctor.host import check_secret

ANSWER_S = 1.0
#: below this share of the disk a person should know
FREE_MIN_SHARE = 0.1


def judge_keys(vault: VaultConfig) -> Finding:
    if vault.keys is not None:
        what = type(vault.keys).__struct_config__.tag
        return ok("vault", "keys", f"guarded by {what}")
    if vault.duties == "ingest":
        return ok("vault", "keys", "none: it takes recordings and can open none")
    fix = "keys: {provider: file, passphrase_file: secrets/vault} in the vault section"
    return fail("vault", "keys", "nothing is said to guard them", fix)


def judge_folder(path: Path, mode: int | None) -> Finding:
    """mode: None when there is no such folder here."""
    if mode is None:
        return warn("vault", "folder", f"{path} is not there yet", "the vault makes it: run it")
    if mode & 0o077:
        what = f"{path} is open to others (mode {mode & 0o777:o})"
        return fail("vault", "folder", what, f"chmod 700 {path}")
    return ok("vault", "folder", f"{path} is its owner's alone")


def judge_room(free_bytes: int, total_bytes: int, free_min_bytes: int) -> Finding:
    what = f"{free_bytes >> 20} of {total_bytes >> 20} MiB are free"
    fix = "make room, or shorten retention_days"
    if free_bytes < free_min_bytes:
        return fail("vault", "room", f"{what}: nothing is taken (free_min_mb)", fix)
    if free_bytes < FREE_MIN_SHARE * total_bytes:
        return warn("vault", "room", what, fix)
    return ok("vault", "room", what)


def judge_answer(key: str, address: str, answers: bool) -> Finding:
    if answers:
        return ok("vault", key, f"{address} takes connections")
    return fail("vault", key, f"nobody listens on {address}", "pbxctl run vault, or pbxctl up")


def check_vault(config: Config) -> list[Finding]:
    """Nothing without a vault section. What is on another machine is not looked at."""
    vault = config.vault
    if vault is None:
        return []
    found = [judge_keys(vault)]
    if vault.duties != "keep":
        found.append(judge_answer("ingest", vault.ingest, _answers(vault.ingest)))
    if vault.duties != "ingest":
        found.append(judge_answer("listen", vault.listen, _answers(vault.listen)))
    if _is_here(vault.ingest if vault.duties != "keep" else vault.listen):
        found += _on_this_machine(config, vault)
    return found


def _on_this_machine(config: Config, vault: VaultConfig) -> list[Finding]:
    found = [check_secret("vault", path) for path in _secrets(config, vault)]
    folder = config.vault_path
    found.append(judge_folder(folder, folder.stat().st_mode if folder.exists() else None))
    store = config.path(vault.store) if vault.store else folder / "store"
    if vault.s3 is None and store.exists():
        usage = shutil.disk_usage(store)
        found.append(judge_room(usage.free, usage.total, vault.free_min_mb << 20))
    bad = len(list((folder / "intake").glob("*.bad"))) if os.access(folder, os.X_OK) else 0
    if bad:
        what = f"{bad} envelopes open with no key of ours"
        fix = f"look at {folder / 'intake'}; docs/vault.md says what they may be"
        found.append(fail("vault", "intake", what, fix))
    return found


def _secrets(config: Config, vault: VaultConfig) -> list[Path]:
    named = [vault.s3.secret_key_file] if vault.s3 else []
    if isinstance(vault.keys, FileKeys):
        named.append(vault.keys.passphrase_file)
    elif isinstance(vault.keys, Pkcs11Keys):
        named.append(vault.keys.pin_file)
    elif vault.keys is not None:
        named.append(vault.keys.token_file)
    return [config.path(name) for name in named]


def _is_here(address: str) -> bool:
    """Whether it is an address of this machine, so that a vault could listen there."""
    host = split_address(address)[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(split_address(address), ANSWER_S):
            return True
    except OSError:
        return False
