"""whose records are: for lists and timelines of callers that see some owners' records alone

Owners of records that the timeline knows already come with `make rebuild PROJECTION=timeline`.
"""

import sqlalchemy as sa
from alembic import op

from chassis.migrate import replace_indexes

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    replace_indexes([(table, ("owner_id",)) for table in ("notes", "calls", "meetings")], ())
    op.create_table(
        "entity_owner",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("entity_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "entity_id", name=op.f("entity_owner_pk")),
    )
