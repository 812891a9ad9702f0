"""Puts rendered files in their place: each whole or not at all, secrets never open in between."""

from __future__ import annotations

import stat
from pathlib import Path

from controller import durable
from controller.errors import UsageError
from controller.render.file import File
from controller.render.files import Rendered


def write(rendered: Rendered, *, dry_run: bool = False) -> list[str]:
    """Writes into `rendered.folder` what differs there; answers the paths written, in order.

    dry_run: only answers them. Raises UsageError when the folder cannot be written or read.
    """
    written = []
    try:
        if not dry_run:
            rendered.folder.mkdir(parents=True, exist_ok=True)
        for path, file in rendered.files.items():
            if _differs(rendered.folder / path, file):
                if not dry_run:
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
    durable.replace(path, text.encode(), _shared(path.parent, mode))


def _shared(folder: Path, mode: int) -> int:
    """In a folder with the set-group-id bit its group reads what is written, secrets too: the PBX
    that runs as another user than its agent."""
    return mode | 0o040 if folder.stat().st_mode & stat.S_ISGID else mode
