"""roles, teams, service accounts; users, keys and providers that have them"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TEXTS = postgresql.ARRAY(sa.Text())


def upgrade() -> None:
    _table(
        "roles",
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("permissions", _TEXTS, nullable=False),
        sa.Column("visibility", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("default_visibility", sa.SmallInteger(), nullable=True),
        sa.Column("field_rules", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    )
    _table("teams", sa.Column("parent_id", sa.Uuid(), nullable=True))
    _table(
        "service_accounts",
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("role_ids", _TEXTS, nullable=False),
    )
    op.add_column("api_keys", sa.Column("service_account_id", sa.Uuid(), nullable=True))
    op.add_column("users", sa.Column("state", sa.SmallInteger(), nullable=True))
    for table, name in (("users", "role_ids"), ("users", "team_ids"), ("identity_providers", "role_ids")):
        op.add_column(table, sa.Column(name, _TEXTS, nullable=False, server_default="{}"))
        op.alter_column(table, name, server_default=None)


def _table(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=True),
        *columns,
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delete_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f(f"{name}_pk")),
    )
