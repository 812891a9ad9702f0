"""Which build this is."""

from __future__ import annotations

from importlib import metadata


def _version() -> str:
    try:
        return metadata.version("pbxctl")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "0.0.0+checkout"


VERSION = _version()
