"""event filters"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("subscriptions", "webhook_endpoints"):
        op.add_column(table, sa.Column("filter", sa.Text(), nullable=True))
