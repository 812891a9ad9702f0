"""What one run of the command goes by: its options, context, config and gate."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli import contexts
from controller.errors import UsageError

if TYPE_CHECKING:
    from controller.api.client import Gate
    from controller.config import Config

FORMATS = ("table", "wide", "json", "yaml", "name")
DEFAULT_CONFIG = "/etc/pbxctl/pbxctl.yaml"


@dataclass
class Session:
    """Filled by the options, those of the group first, then those of the command itself."""

    config_file: str | None = None
    context: str | None = None
    output: str = "table"
    watch_s: float | None = None
    yes: bool = False
    dry_run: bool = False
    no_color: bool = field(default_factory=lambda: bool(os.environ.get("NO_COLOR")))
    verbose: bool = False
    person: str = ""
    _config: Config | None = None

    def config_path(self) -> Path:
        """Of --config or PBXCTL_CONFIG, the context, ./pbxctl.yaml, /etc/pbxctl/pbxctl.yaml."""
        if self.config_file:
            return Path(self.config_file)
        chosen = contexts.current(self.context)
        if chosen and chosen.config:
            return Path(chosen.config).expanduser()
        here = Path("pbxctl.yaml")
        return here if here.is_file() else Path(DEFAULT_CONFIG)

    def config(self) -> Config:
        """The config, read once. Raises ConfigError, UsageError in a context that has none."""
        if self._config is None:
            chosen = None if self.config_file else contexts.current(self.context)
            if chosen and chosen.gate:
                raise UsageError(
                    f"context {chosen.name!r} names a gate, and this command needs the config file",
                    hint="run it where the config is, or give --config",
                )
            from controller.config_file import load

            self._config = load(self.config_path())
        return self._config

    def gate(self, timeout_s: float = 15.0) -> Gate:
        """The gate of the context, or of the config on this machine."""
        from controller.api.client import Gate, TlsGate, UnixGate
        from controller.api.listen import socket_path

        chosen = None if self.config_file else contexts.current(self.context)
        if chosen and chosen.gate:
            files = [Path(p).expanduser() for p in (chosen.cert, chosen.key, chosen.ca)]
            return Gate(TlsGate(chosen.gate, *files), timeout_s=timeout_s)
        return Gate(UnixGate(socket_path(self.config())), timeout_s=timeout_s)

    def vault(self, timeout_s: float = 15.0) -> Gate:
        """The vault of the context, or of the config by a certificate of pki.folder (--as).

        Raises UsageError when there is none, or no certificate to show.
        """
        from controller.api.client import Gate, TlsGate

        chosen = None if self.config_file else contexts.current(self.context)
        if chosen and chosen.gate:
            if not chosen.vault:
                raise UsageError(
                    f"context {chosen.name!r} names no vault",
                    hint="pbxctl context add with --vault https://host:port",
                )
            files = [Path(p).expanduser() for p in (chosen.cert, chosen.key, chosen.ca)]
            return Gate(TlsGate(chosen.vault, *files), timeout_s=timeout_s, name="vault")
        config = self.config()
        if config.vault is None:
            raise UsageError(f"{config.source} has no vault section", hint="docs/vault.md")
        folder = config.path(config.pki.folder)
        name = self._person(folder / "people")
        where = TlsGate(
            f"https://{config.vault.listen}",
            folder / "people" / f"{name}.pem",
            folder / "people" / f"{name}.key",
            folder / "control" / "ca.pem",
        )
        return Gate(where, timeout_s=timeout_s, name="vault")

    def _person(self, folder: Path) -> str:
        asked = self.person or os.environ.get("PBXCTL_AS", "")
        people = sorted(path.stem for path in folder.glob("*.pem") if path.stem != "ca")
        if asked in people or (not asked and len(people) == 1):
            return asked or people[0]
        if not people:
            what, hint = "nobody has a certificate", "pbxctl pki issue NAME --role auditor"
        else:
            what = f"{asked} has no certificate" if asked else "there are several certificates"
            hint = f"--as NAME: {', '.join(people[:8])}"
        raise UsageError(f"{what}, and the vault asks for one", hint=hint)

    def confirm(self, question: str) -> None:
        """Asks unless --yes. Raises UsageError when there is nobody to ask."""
        import click

        if self.yes or self.dry_run:
            return
        if not sys.stdin.isatty():
            raise UsageError(
                "this changes the fleet and nobody is there to confirm it",
                hint="give --yes, or --dry-run to see what would happen",
            )
        click.confirm(question, abort=True, err=True)
