"""the ledger by time, for the audit"""

from chassis.migrate import add_ledger_times

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_ledger_times()
