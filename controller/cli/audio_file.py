"""Writes a recording's audio to a file: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from controller.api.client import Gate
from controller.api.recording_shapes import HoldAsk, Verified
from controller.cli.session import Session
from controller.errors import LinkLost, PbxctlError, Tampered, UsageError


def fetch(
    session: Session, vault: Gate, recording: str, path: Path, *, opus: bool, **piece: str
) -> int:
    """Streams the piece (from_ms, to_ms) into `path`, for its owner alone; the file's bytes.

    What has that name stays until the audio is complete; of a failure nothing stays. Raises
    UsageError when the file cannot be written or opus cannot be made, Tampered with the segment.
    """
    with _whole(path) as temporary:
        try:
            with (
                vault.stream("recordings", recording, "audio", **piece) as (size, pieces),
                _encoder(temporary) if opus else temporary.open("wb") as out,
            ):
                for part in _progress(session, recording, size, pieces):
                    out.write(part)
        except LinkLost as error:
            raise _why(vault, recording, error) from error
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
        return temporary.stat().st_size


def _why(vault: Gate, recording: str, error: LinkLost) -> PbxctlError:
    """A stream that breaks off may be the network, or a segment that does not open."""
    try:
        found = vault.post(Verified, "recordings", recording, "verify", body=HoldAsk())
    except PbxctlError:
        return error
    if found.intact:
        return error
    where = f"segment {', '.join(map(str, found.bad))}" if found.bad else found.words
    return Tampered(
        f"{recording} is damaged: {where}",
        hint="--from and --to export what lies before and after it",
    )


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
        os.close(handle)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="name a file of yours: --into"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _encoder(path: Path) -> Iterator[IO[bytes]]:
    """Takes WAV and writes Ogg Opus."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UsageError(
            "Opus needs ffmpeg, which is not installed",
            hint="apt-get install ffmpeg, or export WAV",
        )
    command = [program, "-v", "error", "-y", "-f", "wav", "-i", "pipe:0",
               "-c:a", "libopus", "-f", "ogg", str(path)]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr  # noqa: S101 - asked for above
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError:
            pass  # ffmpeg ended early: its words tell more
        except BaseException:
            process.kill()
            raise
        said = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode:
        raise UsageError(f"ffmpeg could not make Opus: {said[:300]}", hint="export WAV instead")


def _progress(session: Session, what: str, size: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, with a bar on stderr where somebody watches."""
    if not sys.stderr.isatty() or session.output not in ("table", "wide"):
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    terminal = Console(stderr=True, no_color=session.no_color)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task(what[:12], total=size)
        for piece in pieces:
            yield piece
            progress.advance(task, len(piece))
