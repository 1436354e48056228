"""indexes in the order of lists

Each index ends in the id, so that a page is a piece of it. The shorter ones they begin with are no longer needed.
"""

from chassis.migrate import replace_indexes

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW = (
    ("contacts", ("display_name",)),
    ("contacts", ("owner_id",)),
    ("contacts", ("update_time",)),
    ("companies", ("display_name",)),
    ("companies", ("owner_id",)),
    ("companies", ("update_time",)),
    ("affiliations", ("contact_id",)),
    ("affiliations", ("company_id",)),
)
_NO_LONGER_NEEDED = (
    ("contacts", ("display_name",)),
    ("companies", ("display_name",)),
    ("affiliations", ("contact_id",)),
    ("affiliations", ("company_id",)),
)


def upgrade() -> None:
    replace_indexes(_NEW, _NO_LONGER_NEEDED)
