"""Envelopes that wait for the keeper: one file a recording, gone once its key has a slot.

A file is synced and read back before its recording's Begin is acknowledged, and overwritten before
it is unlinked: an envelope that outlives its recording would undo an erasure. (On a disk that
writes elsewhere what is overwritten, the old one lives until the X-Wing pair is rotated.)
Everything here blocks and raises StoreUnreachable.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from controller.config import Config
from controller.durable import own_folder, sync_folder
from controller.errors import StoreUnreachable

_SUFFIX = ".envelope"
_BAD = ".bad"


class Waiting(msgspec.Struct, frozen=True):
    """header: as Header.encode wrote it. arrived_ms: since 1970."""

    header: bytes
    envelope: bytes
    arrived_ms: int


class Intake:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._translated():
            own_folder(folder)

    def put(self, recording: str, waiting: Waiting) -> None:
        """Keeps what came first: a recording has one envelope."""
        data = msgspec.msgpack.encode(waiting)
        path = self._path(recording)
        with self._translated():
            if path.exists():
                return
            new = path.with_suffix(".new")
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            if new.read_bytes() != data:
                raise OSError("what it gives back is not what it was given")
            new.replace(path)
            sync_folder(self._folder)

    def waiting(self) -> list[str]:
        """Recordings, those that came first first."""
        with self._translated():
            found = [(path.stat().st_mtime_ns, path.stem) for path in self._files(_SUFFIX)]
        return [recording for _, recording in sorted(found)]

    def bad(self) -> list[str]:
        with self._translated():
            return sorted(path.stem for path in self._files(_BAD))

    def get(self, recording: str) -> Waiting | None:
        """None when another took it meanwhile. Raises msgspec.DecodeError for a damaged file."""
        with self._translated(), contextlib.suppress(FileNotFoundError):
            return msgspec.msgpack.decode(self._path(recording).read_bytes(), type=Waiting)
        return None

    def set_aside(self, recording: str) -> None:
        """Keeps what no key opens for a person to look at."""
        with self._translated():
            self._path(recording).replace(self._path(recording).with_suffix(_BAD))
            sync_folder(self._folder)

    def destroy(self, recording: str) -> None:
        with self._translated(), contextlib.suppress(FileNotFoundError):
            path = self._path(recording)
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(handle, bytes(os.fstat(handle).st_size))
                os.fsync(handle)
            finally:
                os.close(handle)
            path.unlink()
            sync_folder(self._folder)

    def _files(self, suffix: str) -> list[Path]:
        return list(self._folder.glob(f"*{suffix}"))

    def _path(self, recording: str) -> Path:
        return self._folder / f"{recording}{_SUFFIX}"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnreachable(
                f"{self._folder}: {error.strerror or error}",
                hint="vault.folder must have room and belong to the user that runs the vault",
            ) from error


def open_intake(config: Config) -> Intake:
    return Intake(config.vault_path / "intake")
