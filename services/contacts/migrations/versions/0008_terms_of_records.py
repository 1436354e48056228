"""search terms by record, for searches of several words"""

from chassis.migrate import add_terms_of_records

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_terms_of_records()
