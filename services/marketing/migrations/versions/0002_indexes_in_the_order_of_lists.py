"""indexes in the order of lists

Each index ends in the id, so that a page is a piece of it. The shorter ones they begin with are no longer needed.
"""

from chassis.migrate import replace_indexes

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW = (
    ("campaigns", ("display_name",)),
    ("touches", ("subject_id",)),
    ("touches", ("campaign_id",)),
    ("touches", ("touch_time",)),
)
_NO_LONGER_NEEDED = (
    ("campaigns", ("display_name",)),
    ("touches", ("subject_id",)),
    ("touches", ("campaign_id",)),
)


def upgrade() -> None:
    replace_indexes(_NEW, _NO_LONGER_NEEDED)
