"""pbxctl backup and pbxctl restore: all that a machine of the fleet would be missed for.

    FOLDER/config/     pbxctl.yaml as it is; passwords and certificates by their names in it
    FOLDER/records.db  or records.dump (PostgreSQL)
    FOLDER/vault/      key file, keyring, key slots, waiting envelopes
    FOLDER/bodies/     sealed recordings, where they are in a folder

Redis is no part of it: the nodes know what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from controller.cli import options, output
from controller.cli.session import Session
from controller.config import Config
from controller.config_file import parse
from controller.config_vault import FileKeys, Pkcs11Keys, TransitKeys
from controller.durable import replace
from controller.errors import PbxctlError, UsageError

_CONFIG = "pbxctl.yaml"
FOLDER = click.Path(file_okay=False, path_type=Path)


class Done(msgspec.Struct, frozen=True):
    """files: of the config and what it names. left: what it names outside of its folder."""

    folder: str
    files: int
    records: bool
    keys: bool
    bodies: int
    left: list[str]


@options.examples(
    "pbxctl backup /mnt/backup/2027-01-31",
    "pbxctl backup /mnt/backup/2027-01-31 --no-bodies",
)
@click.command()
@options.printing
@click.argument("folder", type=FOLDER)
@click.option("--no-bodies", is_flag=True, help="Without the sealed recordings themselves.")
@click.pass_obj
def backup(session: Session, folder: Path, no_bodies: bool) -> None:
    """Copy config, secrets, records and vault of this machine, while all runs."""
    from controller.records.copying import copy_records
    from controller.vault.copying import RING, bodies_folder, copy_keys, copy_tree

    config = session.config()
    _must_be_new(folder)
    bodies = None if no_bodies else bodies_folder(config)
    here, left = _named_files(config)
    try:
        folder.mkdir(mode=0o700, parents=True)
        _copy(Path(config.source), folder / "config" / _CONFIG)
        for name in here:
            _copy(config.path(name), folder / "config" / name)
        records = copy_records(config, folder)
        keys = config.vault is not None and (config.vault_path / RING).exists()
        if keys:
            copy_keys(config.vault_path, folder / "vault")
        count = copy_tree(bodies, folder / "bodies") if bodies and bodies.is_dir() else 0
    except OSError as error:
        raise PbxctlError(
            f"{error.filename or folder} cannot be copied: {error.strerror}",
            hint="run it as the user whose files they are, into a folder with room",
        ) from error
    _tell(session, Done(str(folder), len(here) + 1, bool(records), keys, count, left), "saved")


@options.examples("pbxctl restore /mnt/backup/2027-01-31 --into /etc/pbxctl")
@click.command()
@options.printing
@click.argument("folder", type=FOLDER)
@click.option("--into", type=FOLDER, required=True, metavar="FOLDER",
              help="Where pbxctl.yaml goes; the rest goes where that says.")  # fmt: skip
@click.pass_obj
def restore(session: Session, folder: Path, into: Path) -> None:
    """Put a backup back, with no role running; what is there is never overwritten."""
    from controller.records.copying import restore_records
    from controller.vault.copying import bodies_folder, copy_tree

    given = folder / "config"
    if not (given / _CONFIG).is_file():
        raise UsageError(f"{folder} is no backup of ours", hint="made by pbxctl backup FOLDER")
    files = sorted(p.relative_to(given) for p in given.rglob("*") if p.is_file())
    try:
        # Secrets that stand outside of the config's folder are no part of it.
        text = (given / _CONFIG).read_text("utf-8")
        config = parse(text, str(into / _CONFIG), secrets_there=False)
        vault, bodies = config.vault_path, bodies_folder(config)
        for path in (config.state_path / "records.db", vault / "keyring", vault / "slots"):
            _must_be_new(path)
        for name in files:
            _must_be_new(into / name)
        for name in files:
            _copy(given / name, into / name)
        restore_records(config, folder)
        keys = (folder / "vault").is_dir()
        if keys:
            copy_tree(folder / "vault", vault)
        saved = folder / "bodies"
        count = copy_tree(saved, bodies) if bodies and saved.is_dir() else 0
    except OSError as error:
        raise PbxctlError(
            f"{error.filename or into} cannot be written: {error.strerror}",
            hint="run it as the user who shall own the files",
        ) from error
    records = any((folder / name).exists() for name in ("records.db", "records.dump"))
    _tell(session, Done(str(into), len(files), records, keys, count, []), "restored")


def _tell(session: Session, done: Done, verb: str) -> None:
    if session.output not in ("table", "wide"):
        output.facts(session, done, "backup")
        return
    parts = [f"{done.files} files of the config"]
    parts += ["the records"] if done.records else []
    parts += ["the vault's keys"] if done.keys else []
    parts += [f"{done.bodies} files of recordings"] if done.bodies else []
    lines = [f"{verb}: {', '.join(parts)}; {done.folder}"]
    lines += [f"not in it, for it is not beside the config: {name}" for name in done.left]
    output.say(session, lines)


def _must_be_new(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} is there already and stays as it is", hint="name an empty place")


def _named_files(config: Config) -> tuple[list[str], list[str]]:
    """Names, relative to the config, of files on this machine; and those that stand elsewhere."""
    here, left = [], []
    for name in dict.fromkeys(_names(config)):
        path = config.path(name)
        if not path.exists():
            continue  # another machine's part
        if Path(name).is_absolute() or ".." in Path(name).parts:
            left.append(name)
        elif path.is_dir():
            root = Path(config.source).parent
            here += [str(p.relative_to(root)) for p in sorted(path.rglob("*")) if p.is_file()]
        else:
            here.append(name)
    return here, left


def _names(config: Config) -> Iterator[str]:
    yield config.pki.folder
    yield from (node.password_file for node in config.nodes.values())
    optional = [config.redis.password_file, config.redis.users, config.records.password_file]
    optional.append(config.security.peers_ca)
    if tls := config.gate.tls:
        optional += [tls.cert, tls.key, tls.client_ca]
    if vault := config.vault:
        optional.append(vault.s3.secret_key_file if vault.s3 else None)
        match vault.keys:
            case FileKeys() as keys:
                optional += [keys.passphrase_file, keys.file]
            case Pkcs11Keys() as token:
                optional.append(token.pin_file)
            case TransitKeys() as transit:
                optional += [transit.token_file, transit.ca, transit.cert, transit.key_file]
    yield from (name for name in optional if name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(target, source.read_bytes(), source.stat().st_mode & 0o777)
