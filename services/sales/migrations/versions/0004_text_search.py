"""the words records are found by"""

from alembic import op

from chassis.migrate import add_search

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_search(op.get_bind(), "sales")
