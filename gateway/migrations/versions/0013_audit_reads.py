"""the log of reads, and the ledger by time"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from chassis.migrate import add_ledger_times

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_ledger_times()
    op.create_table(
        "audit_reads",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("principal", "credential", "method", "resource", "record_id")
        ),
        sa.Column("record_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("outcome", "request_id", "trace_id", "network")),
        sa.PrimaryKeyConstraint("tenant_id", "position", name=op.f("audit_reads_pk")),
    )
    for names in (("tenant_id", "time", "position"), ("tenant_id", "record_id", "time")):
        op.create_index(op.f(f"audit_reads_{'_'.join(names)}_ix"), "audit_reads", list(names))
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("audit_heads_pk")),
    )
