"""The tables of proposals, in the gateway's database."""

from __future__ import annotations

from crm.gateway.v1 import proposal_pb2
from sqlalchemy import Column, Date, Index, Integer, LargeBinary, Text, Uuid, bindparam
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import Time
from gateway.identity.tables import caller_columns, schema

# What a proposal holds of other records stands apart: events and revisions of proposals are seen by many.
TRANSIENT = ("request", "changes")
proposals = schema.record(proposal_pb2.Proposal, transient=TRANSIENT)
Index("proposals_proposer_ix", proposals.c.tenant_id, proposals.c.proposer_id, proposals.c.state)

contents = schema.table(
    "proposal_contents",
    Column("proposal_id", Uuid, nullable=False),
    Column("request", LargeBinary, nullable=False),
    # The foreseen changes, each a crm.type.v1.Change.
    Column("changes", ARRAY(LargeBinary), nullable=False),
    # Who proposed it, with what that call had.
    *caller_columns(),
    # When something is to be done about it: its change made, its end written, or these contents taken away.
    Column("due_time", Time),
    key=("proposal_id",),
)
schema.worker["proposal_contents"] = "SELECT"
Index("proposal_contents_due_ix", contents.c.due_time, postgresql_where=contents.c.due_time.is_not(None))

# How many proposals somebody made on a day.
budgets = schema.table(
    "proposal_budgets",
    Column("principal_id", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("used", Integer, nullable=False),
    key=("principal_id", "day"),
)

THESE_CONTENTS = (contents.c.tenant_id == bindparam("tenant"), contents.c.proposal_id == bindparam("proposal"))
