"""whose records are: for lists of callers that see some owners' records alone"""

from chassis.migrate import replace_indexes

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    replace_indexes([(table, ("owner_id",)) for table in ("campaigns", "touches")], ())
