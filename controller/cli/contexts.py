"""Contexts: short names for fleets, in ~/.config/pbxctl/contexts.yaml (PBXCTL_CONTEXTS).

A context names a config file on this machine, or a gate on the network with the certificate
files to reach it. The file holds no secret itself, only paths.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from controller.errors import ConfigError, NotFound, UsageError


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """config, or gate (https://host:port) with cert, key and ca: PEM files. vault: its address."""

    name: str
    config: str = ""
    gate: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""
    vault: str = ""


class Contexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    current: str = ""
    contexts: tuple[Context, ...] = ()

    def get(self, name: str) -> Context:
        for context in self.contexts:
            if context.name == name:
                return context
        known = ", ".join(c.name for c in self.contexts)
        raise NotFound(
            f"there is no context {name!r}",
            hint=f"known: {known}" if known else "make one: pbxctl context add",
        )


def path() -> Path:
    if named := os.environ.get("PBXCTL_CONTEXTS"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "pbxctl" / "contexts.yaml"


def read() -> Contexts:
    """The file's contexts; none when there is no file. Raises ConfigError."""
    file = path()
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    try:
        return msgspec.yaml.decode(raw, type=Contexts)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            str(error), file=str(file), hint="mend or remove it: pbxctl context add makes a new one"
        ) from error


def write(contexts: Contexts) -> None:
    """Replaces the file: the old one or the new one is there, never half of it."""
    file = path()
    new = file.with_name(file.name + ".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.write_bytes(msgspec.yaml.encode(contexts))
        new.replace(file)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}", hint="PBXCTL_CONTEXTS names another file"
        ) from error


def current(name: str | None) -> Context | None:
    """The context called `name`, or else the one in use, or None."""
    known = read()
    chosen = name or known.current
    return known.get(chosen) if chosen else None
