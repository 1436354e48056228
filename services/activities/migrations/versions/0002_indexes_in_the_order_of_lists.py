"""indexes in the order of lists

Each index ends in the id, so that a page is a piece of it. The shorter ones they begin with are no longer needed.
"""

from chassis.migrate import replace_indexes

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW = (
    ("tasks", ("due_time",)),
    ("tasks", ("owner_id",)),
    ("notes", ("note_time",)),
    ("calls", ("call_time",)),
    ("meetings", ("start_time",)),
)
_NO_LONGER_NEEDED = (
    ("tasks", ("due_time",)),
    ("notes", ("note_time",)),
    ("calls", ("call_time",)),
    ("meetings", ("start_time",)),
)


def upgrade() -> None:
    replace_indexes(_NEW, _NO_LONGER_NEEDED)
