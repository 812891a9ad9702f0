"""The phones of a fleet in SQL: what the operator wants, not what is registered.

Every change raises its region's version in the same transaction, so that a version names one set
of phones and a node that has it has them all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from controller.errors import NotFound, Refused
from controller.model import MediaPolicy
from controller.records import tables
from controller.records.database import Database


class Digests(msgspec.Struct, frozen=True):
    """H(name:realm:password) in hex, by MD5 and by SHA-256 (RFC 8760): never the password."""

    md5: str
    sha256: str

    def __repr__(self) -> str:
        return "Digests(…)"


class Phone(msgspec.Struct, frozen=True):
    """One phone. Times in ms since 1970, 0 for never; removed ones have no digests any more."""

    name: str
    display: str
    region: str
    policy: MediaPolicy
    digests: Digests
    version: int
    created_ms: int
    rotated_ms: int
    removed_ms: int = 0


_T = tables.phones.c


class PhoneBook:
    """Blocks. Raises RecordsUnreachable from any method."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, name: str, display: str, region: str, policy: MediaPolicy, digests: Digests
    ) -> Phone:
        """Raises Refused when a phone has that name. One that is being removed yields to it."""
        try:
            return self._add(name, display, region, policy, digests)
        except IntegrityError:
            # Somebody was first, with this name or with this region: the second look tells.
            try:
                return self._add(name, display, region, policy, digests)
            except IntegrityError as error:
                raise _taken(name) from error

    def _add(
        self, name: str, display: str, region: str, policy: MediaPolicy, digests: Digests
    ) -> Phone:
        now_ms = _now_ms()
        with self._database.transaction() as sql:
            version = _raise_version(sql, region)
            row = sql.execute(select(_T.region, _T.removed_ms).where(_T.name == name)).one_or_none()
            if row is not None and row.removed_ms:
                if row.region != region:  # its old region must hear that it is gone
                    _raise_version(sql, row.region)
                sql.execute(delete(tables.phones).where(_T.name == name))
            elif row is not None:
                raise _taken(name)
            sql.execute(
                insert(tables.phones).values(
                    name=name,
                    display=display,
                    region=region,
                    policy=policy.value,
                    ha1_md5=digests.md5,
                    ha1_sha256=digests.sha256,
                    version=version,
                    created_ms=now_ms,
                    rotated_ms=0,
                    removed_ms=0,
                )
            )
        return Phone(name, display, region, policy, digests, version, now_ms, 0)

    def get(self, name: str) -> Phone:
        """Raises NotFound, also for one that is being removed."""
        with self._database.transaction() as sql:
            row = sql.execute(select(tables.phones).where(_T.name == name)).one_or_none()
        if row is None or row.removed_ms:
            raise NotFound(
                f"there is no phone {name[:64]!r}", hint="pbxctl phones list shows all of them"
            )
        return _phone(row)

    def all(self) -> list[Phone]:
        """Every phone by name, those that are being removed among them."""
        with self._database.transaction() as sql:
            return [_phone(row) for row in sql.execute(select(tables.phones).order_by(_T.name))]

    def rotate(self, name: str, digests: Digests) -> Phone:
        """Gives the phone other credentials. Raises NotFound."""
        return self._change(
            name, ha1_md5=digests.md5, ha1_sha256=digests.sha256, rotated_ms=_now_ms()
        )

    def remove(self, name: str) -> Phone:
        """Takes its credentials away; the row stays until `forget`. Raises NotFound."""
        return self._change(name, ha1_md5="", ha1_sha256="", removed_ms=_now_ms())

    def _change(self, name: str, **values: object) -> Phone:
        phone = self.get(name)
        with self._database.transaction() as sql:
            version = _raise_version(sql, phone.region)
            done = sql.execute(
                update(tables.phones)
                .where(and_(_T.name == name, _T.region == phone.region, _T.removed_ms == 0))
                .values(version=version, **values)
                .returning(tables.phones)
            ).one_or_none()
            if done is None:
                raise NotFound(f"phone {name!r} was removed meanwhile")
        return _phone(done)

    def versions(self) -> dict[str, int]:
        """Of each region that ever had a phone."""
        with self._database.transaction() as sql:
            rows = sql.execute(select(tables.phone_versions)).all()
        return {row.region: row.version for row in rows}

    def of_region(self, region: str) -> tuple[int, list[Phone]]:
        """The region's version, and its phones without the removed ones."""
        with self._database.transaction() as sql:
            version = _raise_version(sql, region, by=0)
            wanted = and_(_T.region == region, _T.removed_ms == 0)
            rows = sql.execute(select(tables.phones).where(wanted).order_by(_T.name)).all()
        return version, [_phone(row) for row in rows]

    def removed(self) -> list[Phone]:
        with self._database.transaction() as sql:
            rows = sql.execute(select(tables.phones).where(_T.removed_ms != 0)).all()
        return [_phone(row) for row in rows]

    def forget(self, phones: Iterable[Phone]) -> None:
        """Deletes rows of removed phones; one that was added again meanwhile stays."""
        with self._database.transaction() as sql:
            for phone in phones:
                gone = and_(_T.name == phone.name, _T.version == phone.version, _T.removed_ms != 0)
                sql.execute(delete(tables.phones).where(gone))


def _raise_version(sql: Connection, region: str, by: int = 1) -> int:
    """The region's version, raised. It writes first of all: so transactions queue up here.

    With by=0 it only reads, and holds the row until the end of the transaction all the same.
    """
    versions = tables.phone_versions
    raised = (
        update(versions)
        .where(versions.c.region == region)
        .values(version=versions.c.version + by)
        .returning(versions.c.version)
    )
    version = sql.execute(raised).scalar_one_or_none()
    if version is None:
        sql.execute(insert(versions).values(region=region, version=by))
        version = by
    return int(version)


def _phone(row: Row[Any]) -> Phone:
    return Phone(
        row.name,
        row.display,
        row.region,
        MediaPolicy(row.policy),
        Digests(row.ha1_md5, row.ha1_sha256),
        row.version,
        row.created_ms,
        row.rotated_ms,
        row.removed_ms,
    )


def _taken(name: str) -> Refused:
    return Refused(
        f"there is a phone {name!r} already",
        hint=f"pbxctl phones rotate {name} makes new credentials for it",
    )


def _now_ms() -> int:
    return round(time.time() * 1000)
