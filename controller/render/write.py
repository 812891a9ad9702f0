"""Puts rendered files in their place: each whole or not at all, secrets never open in between."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from controller.errors import UsageError
from controller.render.file import File
from controller.render.files import Rendered


def write(rendered: Rendered) -> list[str]:
    """Writes into `rendered.folder` what differs there; answers the paths written, in order.

    Raises UsageError when the folder cannot be written.
    """
    written = []
    try:
        rendered.folder.mkdir(parents=True, exist_ok=True)
        for path, file in rendered.files.items():
            if _differs(rendered.folder / path, file):
                replace(rendered.folder / path, file.text, file.mode)
                written.append(path)
    except OSError as error:
        raise UsageError(
            f"{error.filename or rendered.folder} cannot be written: {error.strerror}",
            hint="run as the owner of that folder, or name another",
        ) from error
    return written


def _differs(path: Path, file: File) -> bool:
    try:
        if file.keep:
            return not path.exists()
        mode = _shared(path.parent, file.mode)
        return path.read_text("utf-8") != file.text or path.stat().st_mode & 0o777 != mode
    except FileNotFoundError:
        return True


def replace(path: Path, text: str, mode: int) -> None:
    """Makes `path` hold `text`: a reader finds the old content or the new, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp opens with 0600, so a secret is closed from its first byte on
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), _shared(path.parent, mode))
            os.fsync(file.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _shared(folder: Path, mode: int) -> int:
    """In a folder with the set-group-id bit its group reads what is written, secrets too: the PBX
    that runs as another user than its agent."""
    return mode | 0o040 if folder.stat().st_mode & stat.S_ISGID else mode


def sync_folder(folder: Path) -> None:
    """Else a power cut may bring the old file back after the new one was acknowledged."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
