"""Phones and the versions of their regions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "phones",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("display", sa.Text, nullable=False),
        sa.Column("region", sa.String(63), nullable=False),
        sa.Column("policy", sa.String(16), nullable=False),
        sa.Column("ha1_md5", sa.String(32), nullable=False),
        sa.Column("ha1_sha256", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("rotated_ms", sa.BigInteger, nullable=False),
        sa.Column("removed_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("phones_region", "phones", ["region"])
    op.create_table(
        "phone_versions",
        sa.Column("region", sa.String(63), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("phone_versions")
    op.drop_table("phones")
