"""The SQL tables. What stands here and what the migrations make is compared by a test.

A change of a table is a new file in migrations/versions/; a released one is never edited.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

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

#: One row a recording, from the moment the keeper has its key. state: growing, complete, partial,
#: erasing, erased. slot: of its key, null once erased. caller, callee: sealed under a key made of
#: the recording's own, so that whoever destroys that has erased them too, in every copy of this
#: table; the tags are keyed hashes by which a person's recordings are found. lost_ms: when a check
#: found the body gone or changed, 0 otherwise. holds: legal holds that are not lifted.
recordings = Table(
    "recordings",
    metadata,
    Column("recording", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("node", String(64), nullable=False),
    Column("call", String(512), nullable=False),
    Column("rule", String(512), nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("rate_hz", Integer, nullable=False),
    Column("channels", Integer, nullable=False),
    Column("suite", String(40), nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("slot", BigInteger, nullable=True),
    Column("period", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("plain_bytes", BigInteger, nullable=False),
    Column("sealed_bytes", BigInteger, nullable=False),
    Column("call_ms", BigInteger, nullable=True),
    Column("caller", LargeBinary, nullable=True),
    Column("callee", LargeBinary, nullable=True),
    Column("caller_tag", LargeBinary, nullable=True),
    Column("callee_tag", LargeBinary, nullable=True),
    Column("keep_until_ms", BigInteger, nullable=False),
    Column("holds", Integer, nullable=False),
    Column("arrived_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("lost_ms", BigInteger, nullable=False),
    Index("recordings_started", "started_ms"),
    Index("recordings_call", "call"),
    Index("recordings_caller", "caller_tag"),
    Index("recordings_callee", "callee_tag"),
    Index("recordings_due", "state", "keep_until_ms"),
)

#: Legal holds. lifted_ms 0 while it stands.
recording_holds = Table(
    "recording_holds",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("recording", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("who", String(128), nullable=False),
    Column("placed_ms", BigInteger, nullable=False),
    Column("lifted_ms", BigInteger, nullable=False),
    Column("lifted_by", String(128), nullable=False),
    Index("recording_holds_recording", "recording"),
)

#: Who read what, when, from where: written before the first byte goes out. The database refuses to
#: change or delete a row (migration 0002). recording: "" for what was no single one.
recording_reads = Table(
    "recording_reads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", String(128), nullable=False),
    Column("roles", String(256), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("recording", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Index("recording_reads_recording", "recording"),
    Index("recording_reads_at", "at_ms"),
)

#: What the vault signed when it erased a recording; rows are as final as those above.
recording_erasures = Table(
    "recording_erasures",
    metadata,
    Column("recording", String(32), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
