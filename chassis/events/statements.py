"""The relay's statements. They run as the worker role and see every tenant's rows; served by the ledger's indexes
on position and on rows without one.
"""

from sqlalchemy import BigInteger, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import Time

_STATE = "SELECT last_position, watermark, stream_seq, event_id FROM relay WHERE id = 1"
LOCKED_STATE = text(f"{_STATE} FOR UPDATE")
STATE = text(_STATE)
PENDING = text("SELECT EXISTS (SELECT 1 FROM ledger WHERE position IS NULL)")
UNNUMBERED = text("SELECT tenant_id, id, commit_time FROM ledger WHERE position IS NULL ORDER BY id LIMIT :batch")
NUMBER = text(
    "UPDATE ledger SET position = mark.position"
    " FROM unnest(:tenants, :ids, :commit_times, :positions) AS mark (tenant_id, id, commit_time, position)"
    " WHERE (ledger.tenant_id, ledger.id, ledger.commit_time) = (mark.tenant_id, mark.id, mark.commit_time)"
).bindparams(
    bindparam("tenants", type_=ARRAY(Uuid)),
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("commit_times", type_=ARRAY(Time)),
    bindparam("positions", type_=ARRAY(BigInteger)),
)
ADVANCE = text("UPDATE relay SET last_position = :position WHERE id = 1")
UNPUBLISHED = text(
    "SELECT tenant_id, id, event_id, entity_id, revision, type, before, after, changed, actor, cause_event_id,"
    " trace_context, occur_time, commit_time, position"
    " FROM ledger WHERE position > :watermark ORDER BY position LIMIT :batch"
)
RECORD = text(
    "UPDATE ledger SET stream_seq = mark.stream_seq"
    " FROM unnest(:tenants, :ids, :commit_times, :seqs) AS mark (tenant_id, id, commit_time, stream_seq)"
    " WHERE (ledger.tenant_id, ledger.id, ledger.commit_time) = (mark.tenant_id, mark.id, mark.commit_time)"
).bindparams(
    bindparam("tenants", type_=ARRAY(Uuid)),
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("commit_times", type_=ARRAY(Time)),
    bindparam("seqs", type_=ARRAY(BigInteger)),
)
MOVE = text(
    "UPDATE relay SET watermark = :watermark, stream_seq = :stream_seq, event_id = :event_id"
    " WHERE id = 1 AND watermark = :seen"
).bindparams(bindparam("event_id", type_=Uuid))
BEFORE = text("SELECT min(position) - 1 FROM ledger WHERE commit_time >= :since AND position IS NOT NULL")
SET_BACK = text(
    "UPDATE relay SET watermark = :watermark, stream_seq = 0, event_id = NULL WHERE id = 1 AND watermark = :seen"
)
AGE_LIMIT = text("SELECT clock_timestamp() - make_interval(secs => :age_s)")
