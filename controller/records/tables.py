"""The SQL tables. What stands here and what the migrations make is compared by a test.

A change of a table is a new file in migrations/versions/; a released one is never edited.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, Text

metadata = MetaData()

#: One row a phone. Times are milliseconds since 1970; removed_ms 0 while the phone is wanted. A
#: removed phone keeps its row, without credentials, until every node that had it has let it go.
#: version: that of its region at its last change.
phones = Table(
    "phones",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("display", Text, nullable=False),
    Column("region", String(63), nullable=False),
    Column("policy", String(16), nullable=False),
    Column("ha1_md5", String(32), nullable=False),
    Column("ha1_sha256", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("rotated_ms", BigInteger, nullable=False),
    Column("removed_ms", BigInteger, nullable=False),
    Index("phones_region", "region"),
)

#: How often the phones of a region have changed: what nodes compare themselves with.
phone_versions = Table(
    "phone_versions",
    metadata,
    Column("region", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
)
