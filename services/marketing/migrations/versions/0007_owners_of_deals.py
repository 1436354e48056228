"""whose deals are: the funnel counts those in sight

Owners of deals that are known already come with `make rebuild PROJECTION=funnel`; until then whoever sees some owners'
deals alone has none of the older ones counted.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deal_view", sa.Column("owner_id", sa.Uuid(), nullable=True))
