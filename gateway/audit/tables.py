"""The log of reads, in the gateway's database."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.chain import Log
from chassis.db import Time
from gateway.identity.tables import schema

# One row a read or refusal. The columns but the position are the fields of crm.type.v1.AuditEntry.
audit_reads = schema.table(
    "audit_reads",
    # 1, 2, 3 … for each tenant, without gaps, in the order in which they are committed.
    Column("position", BigInteger, nullable=False, autoincrement=False),
    Column("id", Uuid, nullable=False),
    Column("time", Time, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("record_id", Text, nullable=False),
    Column("record_ids", ARRAY(Text), nullable=False),
    Column("query", Text, nullable=False),
    Column("row_count", Integer),
    Column("outcome", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("network", Text, nullable=False),
    key=("position",),
)
Index(None, audit_reads.c.tenant_id, audit_reads.c.time, audit_reads.c.position)
Index(None, audit_reads.c.tenant_id, audit_reads.c.record_id, audit_reads.c.time)
schema.worker["audit_reads"] = "SELECT, DELETE"
# What is sealed, in this order (docs/audit.md).
_SEALED = (
    "tenant_id", "id", "time", "kind", "principal", "credential", "method", "resource", "record_id", "record_ids",
    "query", "row_count", "outcome", "request_id", "trace_id", "network",
)  # fmt: skip
schema.seal(Log("reads", audit_reads, _SEALED, per_tenant=True, time="time", kept_days="read_log_days"))

# How far each tenant's positions are given. Whoever raises it holds its row, so that they are given one after another.
audit_heads = schema.table("audit_heads", Column("last_position", BigInteger, nullable=False), key=())
