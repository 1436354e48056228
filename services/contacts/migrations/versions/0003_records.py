"""each row keeps its record's message"""

from alembic import op

from chassis.migrate import add_records

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_records(op.get_bind(), {"contact": "contacts", "company": "companies", "affiliation": "affiliations"})
