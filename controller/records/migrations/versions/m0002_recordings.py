"""Recordings, their holds, who read them, and what was signed when they were erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

FINAL = ("recording_reads", "recording_erasures")


def upgrade() -> None:
    op.create_table(
        "recordings",
        sa.Column("recording", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("call", sa.String(512), nullable=False),
        sa.Column("rule", sa.String(512), nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("rate_hz", sa.Integer, nullable=False),
        sa.Column("channels", sa.Integer, nullable=False),
        sa.Column("suite", sa.String(40), nullable=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.Column("slot", sa.BigInteger, nullable=True),
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("plain_bytes", sa.BigInteger, nullable=False),
        sa.Column("sealed_bytes", sa.BigInteger, nullable=False),
        sa.Column("call_ms", sa.BigInteger, nullable=True),
        sa.Column("caller", sa.LargeBinary, nullable=True),
        sa.Column("callee", sa.LargeBinary, nullable=True),
        sa.Column("caller_tag", sa.LargeBinary, nullable=True),
        sa.Column("callee_tag", sa.LargeBinary, nullable=True),
        sa.Column("keep_until_ms", sa.BigInteger, nullable=False),
        sa.Column("holds", sa.Integer, nullable=False),
        sa.Column("arrived_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger, nullable=False),
        sa.Column("lost_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("recordings_started", "recordings", ["started_ms"])
    op.create_index("recordings_call", "recordings", ["call"])
    op.create_index("recordings_caller", "recordings", ["caller_tag"])
    op.create_index("recordings_callee", "recordings", ["callee_tag"])
    op.create_index("recordings_due", "recordings", ["state", "keep_until_ms"])
    op.create_table(
        "recording_holds",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("recording", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("placed_ms", sa.BigInteger, nullable=False),
        sa.Column("lifted_ms", sa.BigInteger, nullable=False),
        sa.Column("lifted_by", sa.String(128), nullable=False),
    )
    op.create_index("recording_holds_recording", "recording_holds", ["recording"])
    op.create_table(
        "recording_reads",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("roles", sa.String(256), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("recording", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("recording_reads_recording", "recording_reads", ["recording"])
    op.create_index("recording_reads_at", "recording_reads", ["at_ms"])
    op.create_table(
        "recording_erasures",
        sa.Column("recording", sa.String(32), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    for table in FINAL:
        for statement in _final(op.get_bind().dialect.name, table):
            op.execute(statement)


def _final(dialect: str, table: str) -> list[str]:
    """What makes the rows of a table final: no role of ours has a reason to change one."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        f"CREATE FUNCTION {table}_final() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$",
        f"CREATE TRIGGER {table}_final BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_final()",
    ]


def downgrade() -> None:
    for table in ("recording_erasures", "recording_reads", "recording_holds", "recordings"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        for table in FINAL:
            op.execute(f"DROP FUNCTION {table}_final()")
