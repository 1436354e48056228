"""``python -m services.marketing``: the process."""

from pathlib import Path

from chassis.run import Application, main
from services.marketing import reactions
from services.marketing.campaigns import Campaigns
from services.marketing.funnel_report import FunnelReports
from services.marketing.tables import schema
from services.marketing.touches import Touches

application = Application(
    name="marketing",
    schema=schema,
    services=(Campaigns, Touches, FunnelReports),
    migrations=Path(__file__).parent / "migrations",
    reactions=reactions,
)

if __name__ == "__main__":
    main(application)
