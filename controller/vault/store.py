"""The objects of a vault: sealed bytes in a folder or in S3, by obstore.

An object is written once and never changed. `put` answers when the object is durable and was read
back: for a folder that is write under another name, fsync, a read that the page cache cannot
answer, rename, fsync of the folder; for S3 a conditional PUT and a GET. Everything here blocks.

In a folder `put` does that itself, not by obstore, which has four calls for it: with many threads
each call waits for Python's lock, and a segment of 16 KiB is little beside that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from controller.config import Config, read_secret
from controller.durable import own_folder, sync_folder
from controller.errors import StoreUnreachable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_OTHER_BYTES = "what it gives back is not what it was given"
_STAGED = ".staged"
_STAGED_LIVES_S = 3600.0
_PIECE_BYTES = 4 << 20


class AlreadyStored(Exception):
    """An object has that key. Never leaves the vault: its caller compares."""


@dataclass(frozen=True)
class Stored:
    key: str
    size_bytes: int
    modified_s: float


class Store:
    """Raises StoreUnreachable from any method; FileNotFoundError from those that read.

    folder: where `objects` keeps its files, None when it is not on this machine.
    """

    def __init__(self, objects: ObjectStore, where: str, folder: Path | None) -> None:
        self._objects = objects
        self._folder = folder
        self.where = where

    def put(self, key: str, data: bytes, *, beside: bool = False) -> None:
        """Stores a new object and reads it back. Raises AlreadyStored.

        beside: this process has put another one into the same folder, whose own name is therefore
        durable.
        """
        with self._translated(f"{key} cannot be stored"):
            if self._folder is None:
                self._objects.put(key, data, mode="create", use_multipart=False)
                self._check(key, hashlib.sha256(data).hexdigest())
            else:
                made_folder = _create(self._folder / key, data)
                _sync_name(self._folder, key, beside=beside and not made_folder)

    def put_long(self, key: str, pieces: Iterable[bytes]) -> str:
        """The same for what is larger than memory; its SHA-256. What has the key is replaced."""
        with self._translated(f"{key} cannot be stored"):
            if self._folder is None:
                sha256 = self._write(key, pieces)
            else:
                with self._staged(self._folder, key) as staged:
                    sha256 = self._write(staged, pieces)
                _sync_name(self._folder, key)
            self._check(key, sha256)
        return sha256

    def _write(self, key: str, pieces: Iterable[bytes]) -> str:
        # Not put() with an iterator: obstore runs that inside its own runtime, and a piece that
        # is read from the store there panics.
        digest = hashlib.sha256()
        with obstore.open_writer(self._objects, key) as writer:
            for piece in pieces:
                digest.update(piece)
                writer.write(piece)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _staged(self, folder: Path, key: str) -> Iterator[str]:
        """A name to write to; what has it at the end is synced and gets the name `key`.

        Only a synced file gets its name: after a power cut no name stands for half an object.
        """
        staged = _staged_name(key)
        try:
            yield staged
            _sync_file(folder / staged)
            self._objects.rename(staged, key, overwrite=True)
        except BaseException:
            with contextlib.suppress(Exception):  # the disk may refuse that too; a start clears it
                self._objects.delete(staged)
            raise

    def _check(self, key: str, sha256: str) -> None:
        if self.digest(key) != sha256:
            raise OSError(_OTHER_BYTES)

    def digest(self, key: str) -> str:
        """SHA-256 of the object as the store gives it now."""
        if self._folder is not None:
            with self._translated(f"{key} cannot be read"):
                return _digest_on_disk(self._folder / key)
        size = self.size(key)
        digest = hashlib.sha256()
        for at in range(0, size, _PIECE_BYTES):
            digest.update(self.read(key, at, min(_PIECE_BYTES, size - at)))
        return digest.hexdigest()

    def size(self, key: str) -> int:
        with self._translated(f"{key} cannot be found"):
            return self._objects.head(key)["size"]

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. StoreUnreachable when the object is shorter."""
        if size == 0:
            return b""
        with self._translated(f"{key} cannot be read"):
            data = bytes(self._objects.get_range(key, start=offset, length=size))
            if len(data) != size:
                raise OSError(f"{size} bytes asked for at {offset}, {len(data)} came")
        return data

    def read_all(self, key: str) -> bytes:
        return self.read(key, 0, self.size(key))

    def below(self, prefix: str) -> list[Stored]:
        """Every object below prefix/, by key. What was being written is none."""
        with self._translated(f"{prefix}/ cannot be listed"):
            found = [
                Stored(meta["path"], meta["size"], meta["last_modified"].timestamp())
                for batch in self._objects.list(prefix)
                for meta in batch
                if _STAGED not in meta["path"]
            ]
        return sorted(found, key=lambda stored: stored.key)

    def folders(self, prefix: str) -> list[str]:
        """Names directly below prefix/ that have something below them."""
        with self._translated(f"{prefix}/ cannot be listed"):
            found = self._objects.list_with_delimiter(prefix)["common_prefixes"]
        return sorted(PurePosixPath(path).name for path in found)

    def delete(self, key: str) -> None:
        """Done as well when there is no such object."""
        with self._translated(f"{key} cannot be deleted"), contextlib.suppress(FileNotFoundError):
            self._objects.delete(key)
            if self._folder is not None:
                parent = (self._folder / key).parent
                _sync_folder(parent)
                with contextlib.suppress(OSError):  # others are in it
                    parent.rmdir()

    def free_bytes(self) -> int | None:
        """Room left; None where the store does not tell."""
        if self._folder is None:
            return None
        with self._translated("its room cannot be told"):
            return shutil.disk_usage(self._folder).free

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (AlreadyExistsError, FileExistsError) as error:
            raise AlreadyStored(what) from error
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise StoreUnreachable(
                f"{self.where}: {what}: {_words(error)}",
                hint="check disk, owner and room of vault.store, or the S3 server",
            ) from error


def open_store(config: Config) -> Store:
    """The store that the config names. Raises ConfigError, StoreUnreachable."""
    vault = config.vault
    assert vault is not None  # noqa: S101 - the role is not started without the section
    if vault.s3 is None:
        folder = config.path(vault.store) if vault.store else config.vault_path / "store"
        try:
            own_folder(folder)
            _clear_staged(folder)
        except OSError as error:
            raise StoreUnreachable(
                f"{folder} cannot be used: {error.strerror}",
                hint="vault.store must be writable by the user that runs the vault",
            ) from error
        return Store(LocalStore(folder, automatic_cleanup=False), str(folder), folder)
    s3 = vault.s3
    objects = S3Store(
        s3.bucket,
        prefix=vault.store or "",
        endpoint=s3.endpoint,
        region=s3.region,
        virtual_hosted_style_request=False,
        access_key_id=s3.access_key_id,
        secret_access_key=read_secret(config.path(s3.secret_key_file)),
        client_options={"allow_http": s3.endpoint.startswith("http://"), "timeout": "30s"},
        retry_config={"max_retries": 2},
    )
    return Store(objects, f"s3://{s3.bucket}/{vault.store or ''}", None)


def _clear_staged(folder: Path) -> None:
    """Of vaults that were killed; nothing in them was acknowledged."""
    for left in folder.rglob(f"*{_STAGED}-*"):
        with contextlib.suppress(FileNotFoundError):  # another vault on this folder lives
            if left.stat().st_mtime < time.time() - _STAGED_LIVES_S:
                left.unlink()


class _Described(Protocol):
    args: tuple[object, ...]


def _words(error: _Described) -> str:
    """The first line: obstore puts a whole debug print below it."""
    strerror = getattr(error, "strerror", None)
    return strerror or str(error).strip().split("\n", 1)[0][:300]


def _staged_name(key: str) -> str:
    return f"{key}{_STAGED}-{secrets.token_hex(8)}"


def _create(path: Path, data: bytes) -> bool:
    """As `Store._staged`, and read back. Whether it made the folder for it.

    Raises FileExistsError where the name is taken.
    """
    staged = path.with_name(_staged_name(path.name))
    flags, made_folder = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, False
    try:
        handle = os.open(staged, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, made_folder = os.open(staged, flags, 0o600), True
    try:
        written = 0
        while written < len(data):  # a full disk takes a part
            written += os.pwrite(handle, memoryview(data)[written:], written)
        os.fsync(handle)
        # The cache would only tell us what we wrote.
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        if os.pread(handle, len(data) + 1, 0) != data:
            raise OSError(_OTHER_BYTES)
        os.link(staged, path)  # rename would take the name from another
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # the disk may refuse that too; a start clears it
            staged.unlink()
    return made_folder


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_name(folder: Path, key: str, *, beside: bool = False) -> None:
    """A power cut takes neither the object's name away nor its folders'."""
    parents = PurePosixPath(key).parents
    for parent in parents[:1] if beside else parents:
        _sync_folder(folder / parent)


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        sync_folder(path)


def _digest_on_disk(path: Path) -> str:
    """Without what the cache has of it."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()
