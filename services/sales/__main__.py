"""``python -m services.sales``: the process."""

from pathlib import Path

from chassis.run import Application, main
from services.sales.deals import Deals
from services.sales.leads import Leads
from services.sales.pipeline_report import PipelineReports
from services.sales.pipelines import Pipelines
from services.sales.products import Products
from services.sales.recovery import recovery
from services.sales.tables import schema

application = Application(
    name="sales",
    schema=schema,
    services=(Leads, Deals, Pipelines, Products, PipelineReports),
    migrations=Path(__file__).parent / "migrations",
    timers=(recovery,),
)

if __name__ == "__main__":
    main(application)
