"""The systemd unit that mounts the tmpfs of recordings: a pure function of the config."""

from __future__ import annotations

from controller.config_recordings import RecordingsConfig
from controller.render.file import File
from controller.render.templates import Label, fill


def mount_unit(name: str, recordings: RecordingsConfig) -> dict[str, File]:
    """By its file name, which systemd wants to be the mount point (systemd.mount(5))."""
    unit = f"{_escaped(recordings.folder)}.mount"
    values = {
        "name": name,
        "unit": Label(unit),  # has \x2d for a dash
        "where": recordings.folder,
        "size_mb": recordings.tmpfs_mb,
        "noswap": recordings.noswap,
    }
    return {unit: File(fill("systemd/recordings.mount.j2", values))}


def _escaped(path: str) -> str:
    """As `systemd-escape --path`, for the characters that recordings.folder may have."""
    parts = [part.replace("-", r"\x2d") for part in path.split("/") if part]
    name = "-".join(parts)
    return rf"\x2e{name[1:]}" if name.startswith(".") else name
