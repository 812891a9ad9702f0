"""The SQL database of a fleet: opened, brought to the newest tables, its errors translated.

SQLite in state_dir by default, for one machine; PostgreSQL when gates and stewards stand on
several. Everything here blocks: asyncio code goes through `asyncio.to_thread`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from controller.config import Config, read_secret
from controller.durable import own_folder
from controller.errors import ConfigError, RecordsUnreachable
from controller.records.postgresql import ANSWER_S, CONNECT_S, UPGRADE_S
from controller.records.postgresql import Connection as PostgresqlConnection

SQLITE_NAME = "records.db"
_BUSY_S = 5.0
_MIGRATIONS = Path(__file__).parent / "migrations"
# Any constant of ours: two roles that start together must not make the same table twice.
_ADVISORY_LOCK = 0x70627863


class Database:
    """Transactions on one fleet's records. Safe to share between threads."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commits at the end of the block, rolls back when it raises.

        Raises RecordsUnreachable for whatever SQL cannot do, a full disk among it. IntegrityError
        passes through: it is the one that a caller can act on.
        """
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from sqlalchemy.exc import IntegrityError

        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).split("\n", 1)[0]
            raise RecordsUnreachable(
                f"the records in {self._where} cannot be used: {reason}",
                hint="check the disk and the owner of state_dir, or records.url",
            ) from error

    def upgrade(self) -> None:
        """Brings the tables to this version; does nothing when they are there. Repeatable.

        Tables of a newer version stay as they are: each version's work with the one before it, so
        that an upgrade can be undone (docs/operations.md).
        """
        settings = AlembicConfig()
        settings.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self._translated(), self._alone(), self._engine.connect() as connection:
            postgresql = connection.dialect.name == "postgresql"
            if postgresql:
                _answers_within(connection, UPGRADE_S)
                connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
                connection.commit()
            settings.attributes["connection"] = connection
            try:
                if _is_newer(connection, settings):
                    return
                if not postgresql:
                    # Python's sqlite3 begins none before DDL: a role that is killed in the first
                    # steps would leave half of the tables, and no step could be done again.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                command.upgrade(settings, "head")
                connection.commit()
            finally:
                if postgresql:  # it is the session's, which goes back into the pool
                    connection.rollback()
                    connection.execute(text(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})"))
                    connection.commit()
                    _answers_within(connection, ANSWER_S)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._engine.dialect.name != "sqlite":
            yield
            return
        handle = os.open(f"{self._where}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def close(self) -> None:
        self._engine.dispose()


def _is_newer(connection: Connection, settings: AlembicConfig) -> bool:
    known = {step.revision for step in ScriptDirectory.from_config(settings).walk_revisions()}
    return not set(MigrationContext.configure(connection).get_current_heads()) <= known


def open_database(config: Config) -> Database:
    """The fleet's database, with its tables. Raises ConfigError, RecordsUnreachable."""
    database = Database(*(_remote(config) if config.records.url else _local(config)))
    database.upgrade()
    return database


def _local(config: Config) -> tuple[Engine, str]:
    path = config.state_path / SQLITE_NAME
    try:
        own_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise RecordsUnreachable(
            f"{path} cannot be opened: {error.strerror}",
            hint="state_dir must be writable by the user that runs pbxctl",
        ) from error
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_S})
    event.listen(engine, "connect", _sqlite_settings)
    return engine, str(path)


def _sqlite_settings(connection: Any, _: object) -> None:
    # WAL lets the steward read while the gate writes; FULL, for a phone that was answered for must
    # survive a power cut; secure_delete, for a digest that was rotated away must not linger.
    for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {setting}")


def _remote(config: Config) -> tuple[Engine, str]:
    try:
        url = make_url(config.records.url or "")
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql" or url.password:
        raise ConfigError(
            "is not a PostgreSQL address without a password",
            file=config.source,
            key="records.url",
            hint="as in postgresql://pbxctl@db.example/pbxctl, with records.password_file",
        )
    where = url.render_as_string()
    url = url.set(drivername="postgresql+psycopg")
    if config.records.password_file:
        url = url.set(password=read_secret(config.path(config.records.password_file)))
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_timeout=ANSWER_S,
        connect_args={"connect_timeout": CONNECT_S},
    )
    event.listen(engine, "do_connect", _connect)
    return engine, where


def _connect(_: object, __: object, arguments: list[Any], settings: dict[str, Any]) -> Any:
    return PostgresqlConnection.connect(*arguments, **settings)


def _answers_within(connection: Connection, limit_s: float) -> None:
    driver: Any = connection.connection.driver_connection
    driver.answer_s = limit_s
