"""The tables of sales. Their columns come from the contract; see chassis/rows.py."""

from crm.sales.v1 import deal_pb2, lead_pb2, pipeline_pb2, product_pb2
from sqlalchemy import Column, Index, Integer, LargeBinary, SmallInteger, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import Schema, Time

schema = Schema("sales")

leads = schema.record(lead_pb2.Lead)
deals = schema.record(deal_pb2.Deal)
pipelines = schema.record(pipeline_pb2.Pipeline)
products = schema.record(product_pb2.Product)

# Conversions under way and done, one a lead: what is needed to finish one after a crash, and its answer.
conversions = schema.table(
    "conversions",
    Column("lead_id", Uuid, nullable=False),
    # Another one after every restored lead, so that what the first one did is not taken for the second one's.
    Column("id", Uuid, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("occur_time", Time, nullable=False),
    Column("deal_id", Uuid),
    Column("step", SmallInteger, nullable=False),
    # Request and lead as they were when the conversion began; gone when it is done.
    Column("request", LargeBinary, nullable=False),
    Column("lead", LargeBinary, nullable=False),
    # Ids of what a refused conversion made in contacts and has to take back.
    Column("made", ARRAY(Text), nullable=False),
    Column("response", LargeBinary),
    # The trace of the call that began it.
    Column("trace_context", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    # When recovery may take it up; empty when it is done.
    Column("due_time", Time),
    key=("lead_id",),
)
schema.worker["conversions"] = "SELECT"

# Each ends in the id, as the orders of lists do: a page is a piece of an index, whatever there is of one value.
for name in ("display_name", "owner_id", "open_time", "update_time"):
    Index(None, leads.c.tenant_id, leads.c[name], leads.c.id)
    Index(None, deals.c.tenant_id, deals.c[name], deals.c.id)
Index(None, leads.c.tenant_id, leads.c.status, leads.c.id)
Index(None, deals.c.tenant_id, deals.c.pipeline_id, deals.c.stage_id, deals.c.id)
for name in ("company_id", "contact_id", "lead_id"):
    Index(None, deals.c.tenant_id, deals.c[name], deals.c.id)
Index(None, products.c.tenant_id, products.c.display_name, products.c.id)
# One pipeline of a tenant is the default.
Index("pipelines_default_uq", pipelines.c.tenant_id, unique=True, postgresql_where=pipelines.c.default.is_(True))
# For recovery, which looks for all tenants at once.
Index("conversions_due_ix", conversions.c.due_time, postgresql_where=conversions.c.due_time.is_not(None))
