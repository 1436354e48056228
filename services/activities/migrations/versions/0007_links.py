"""the records that activities are about, for lists of those of one record"""

from alembic import op

from chassis.search.fill import fill

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    fill(op.get_bind(), "activities")
