"""The tables of webhooks, in the gateway's database."""

from __future__ import annotations

from crm.gateway.v1 import webhook_endpoint_pb2
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, SmallInteger, Text, Uuid, bindparam
from sqlalchemy.dialects.postgresql import JSONB

from chassis.db import Time
from gateway.identity.tables import caller_columns, schema

endpoints = schema.record(webhook_endpoint_pb2.WebhookEndpoint, transient=["secret"])

# What an endpoint's record does not show: its secrets, sealed; the rights it was made with; and when to look at it.
queues = schema.table(
    "webhook_queues",
    Column("endpoint_id", Uuid, nullable=False),
    Column("secret", Text, nullable=False),
    Column("old_secret", Text, nullable=False),
    Column("old_secret_expire_time", Time),
    *caller_columns(),
    # When one of its deliveries is due; empty where none is.
    Column("due_time", Time),
    # Nothing is sent before: another process is at it, or the endpoint rests after failures.
    Column("resume_time", Time, nullable=False),
    # Attempts that failed since the last that did not, and the time of the first.
    Column("failures", Integer, nullable=False),
    Column("failing_since", Time),
    key=("endpoint_id",),
)
schema.worker["webhook_queues"] = "SELECT"
Index("webhook_queues_due_ix", queues.c.due_time, postgresql_where=queues.c.due_time.is_not(None))

# One row an endpoint and event. What happened stands in the ledger of its service, at its position.
deliveries = schema.table(
    "webhook_deliveries",
    Column("endpoint_id", Uuid, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("service", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("entity_id", Text, nullable=False),
    Column("commit_time", Time, nullable=False),
    Column("state", SmallInteger, nullable=False),
    # From when the day of attempts counts.
    Column("begin_time", Time, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("url", Text, nullable=False),
    Column("last_status", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("excerpt", Text, nullable=False),
    Column("last_attempt_time", Time),
    Column("due_time", Time),
    key=("endpoint_id", "event_id"),
)
schema.worker["webhook_deliveries"] = "SELECT, DELETE"
_LISTED = ("tenant_id", "endpoint_id", "commit_time", "event_id")
Index("webhook_deliveries_listed_ix", *(deliveries.c[name] for name in _LISTED))
Index(
    "webhook_deliveries_due_ix",
    deliveries.c.tenant_id,
    deliveries.c.endpoint_id,
    deliveries.c.due_time,
    postgresql_where=deliveries.c.due_time.is_not(None),
)
Index("webhook_deliveries_begin_ix", deliveries.c.begin_time)

# Ranges of time that are to be sent again, and how far each ledger was read.
replays = schema.table(
    "webhook_replays",
    Column("id", Uuid, nullable=False),
    Column("endpoint_id", Uuid, nullable=False),
    Column("start_time", Time, nullable=False),
    Column("end_time", Time, nullable=False),
    Column("undelivered_only", Boolean, nullable=False),
    Column("positions", JSONB, nullable=False),
    Column("lease_time", Time, nullable=False),
    key=("id",),
)
schema.worker["webhook_replays"] = "SELECT"

# The queue, and the deliveries, of the endpoint that the parameter ``endpoint`` names.
THIS_QUEUE = (queues.c.tenant_id == bindparam("tenant"), queues.c.endpoint_id == bindparam("endpoint"))
ITS_DELIVERIES = (deliveries.c.tenant_id == bindparam("tenant"), deliveries.c.endpoint_id == bindparam("endpoint"))
