"""webhook endpoints keep what their makers came in with, and what narrowed it"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhook_queues", sa.Column("credential", sa.Text(), nullable=False, server_default=""))
    op.add_column("webhook_queues", sa.Column("access", sa.LargeBinary(), nullable=False, server_default=""))
    for name in ("credential", "access"):
        op.alter_column("webhook_queues", name, server_default=None)
