"""A consistent copy of the records while they are in use; and back into an empty place.

SQLite by VACUUM INTO, PostgreSQL by its own pg_dump and pg_restore. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from pathlib import Path

from controller.config import Config, read_secret
from controller.errors import RecordsUnreachable, UsageError
from controller.records.database import SQLITE_NAME

DUMP_NAME = "records.dump"


def copy_records(config: Config, into: Path) -> str:
    """Writes the copy into the folder; its name, "" where nothing is kept here yet."""
    if config.records.url:
        _run(config, "pg_dump", "--format=custom", f"--file={into / DUMP_NAME}",
             "--dbname", config.records.url)  # fmt: skip
        return DUMP_NAME
    source = config.state_path / SQLITE_NAME
    if not source.exists():
        return ""
    _copy_sqlite(source, into / SQLITE_NAME)
    return SQLITE_NAME


def restore_records(config: Config, source: Path) -> None:
    """From the folder that `copy_records` wrote into. PostgreSQL's base must be empty."""
    if (source / DUMP_NAME).exists():
        if not config.records.url:
            raise UsageError(
                "the backup is of a PostgreSQL", hint="name an empty base by records.url"
            )
        _run(
            config, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error",
            "--single-transaction", "--dbname", config.records.url, str(source / DUMP_NAME),
        )  # fmt: skip
    elif (source / SQLITE_NAME).exists():
        config.state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy_sqlite(source / SQLITE_NAME, config.state_path / SQLITE_NAME)


def _copy_sqlite(source: Path, into: Path) -> None:
    """SQLite refuses a target that holds something."""
    try:
        os.close(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(source, timeout=10)) as connection:
            connection.execute("VACUUM INTO ?", (str(into),))
    except (OSError, sqlite3.Error) as error:
        raise RecordsUnreachable(
            f"{source} cannot be copied to {into}: {error}", hint="is there room, is it our file?"
        ) from error


def _run(config: Config, program: str, *words: str) -> None:
    environment = dict(os.environ)
    if config.records.password_file:
        environment["PGPASSWORD"] = read_secret(config.path(config.records.password_file))
    try:
        done = subprocess.run(
            [program, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True
        )
    except FileNotFoundError as error:
        raise UsageError(
            f"{program} is not installed", hint="apt-get install postgresql-client"
        ) from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().split("\n")[0]
        raise RecordsUnreachable(f"{program}: {told[:300]}", hint="check records.url")
