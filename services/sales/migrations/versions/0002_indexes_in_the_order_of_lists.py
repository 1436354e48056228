"""indexes in the order of lists

Each index ends in the id, so that a page is a piece of it. The shorter ones they begin with are no longer needed.
"""

from chassis.migrate import replace_indexes

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW = (
    ("leads", ("display_name",)),
    ("leads", ("owner_id",)),
    ("leads", ("open_time",)),
    ("leads", ("update_time",)),
    ("deals", ("display_name",)),
    ("deals", ("owner_id",)),
    ("deals", ("open_time",)),
    ("deals", ("update_time",)),
    ("leads", ("status",)),
    ("deals", ("pipeline_id", "stage_id")),
    ("deals", ("company_id",)),
    ("deals", ("contact_id",)),
    ("deals", ("lead_id",)),
    ("products", ("display_name",)),
)
_NO_LONGER_NEEDED = (
    ("leads", ("display_name",)),
    ("leads", ("status",)),
    ("leads", ("owner_id",)),
    ("deals", ("display_name",)),
    ("deals", ("pipeline_id", "stage_id")),
    ("deals", ("owner_id",)),
    ("deals", ("company_id",)),
    ("deals", ("contact_id",)),
    ("deals", ("lead_id",)),
    ("products", ("display_name",)),
)


def upgrade() -> None:
    replace_indexes(_NEW, _NO_LONGER_NEEDED)
