"""seals of the ledger, and places for the digests of what is erased"""

from chassis.migrate import add_seals

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_seals()
