"""The tables of marketing. The columns of its records come from the contract; see chassis/rows.py.

The views are copies of what the funnel needs to know of other services' records. Events keep them (reactions.py);
they are never the only copy of anything.
"""

from crm.marketing.v1 import campaign_pb2, touch_pb2
from crm.sales.v1 import deal_pb2
from sqlalchemy import BigInteger, Boolean, Column, Index, SmallInteger, Text, Uuid

from chassis.db import Schema, Time

schema = Schema("marketing")

campaigns = schema.record(campaign_pb2.Campaign)
touches = schema.record(touch_pb2.Touch)

# Each ends in the id, as the orders of lists do: a page is a piece of an index, whatever there is of one value.
Index(None, campaigns.c.tenant_id, campaigns.c.display_name, campaigns.c.id)
Index(None, campaigns.c.tenant_id, campaigns.c.owner_id, campaigns.c.id)
Index(None, touches.c.tenant_id, touches.c.owner_id, touches.c.id)
Index(None, touches.c.tenant_id, touches.c.subject_id, touches.c.id)
Index(None, touches.c.tenant_id, touches.c.campaign_id, touches.c.id)
Index(None, touches.c.tenant_id, touches.c.touch_time, touches.c.id)

# Leads, as their last revision known here says. In text columns NULL is "not said"; an empty text is a text.
lead_view = schema.table(
    "lead_view",
    Column("id", Uuid, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("source", Text),
    Column("landing_page", Text),
    Column("campaign_id", Uuid),
    Column("owner_id", Uuid),
    Column("status", SmallInteger, nullable=False),
    Column("open_time", Time),
    Column("convert_time", Time),
    Column("deleted", Boolean, nullable=False),
    key=("id",),
)
# The report without a limit in time reads all of a tenant's leads; with one, those of this index.
Index(None, lead_view.c.tenant_id, lead_view.c.open_time)

# Deals, as their last revision known here says.
deal_view = schema.table(
    "deal_view",
    Column("id", Uuid, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("lead_id", Uuid),
    Column("owner_id", Uuid),
    Column("state", SmallInteger, nullable=False),
    Column("close_time", Time),
    Column("deleted", Boolean, nullable=False),
    key=("id",),
)
# What the report joins: the won deals that came of leads, alone.
Index(
    "deal_view_won_ix",
    deal_view.c.tenant_id,
    deal_view.c.lead_id,
    deal_view.c.close_time,
    postgresql_where=(deal_view.c.state == deal_pb2.DEAL_STATE_WON) & ~deal_view.c.deleted,
)
