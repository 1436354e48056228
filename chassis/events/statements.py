"""The relay's statements, each a transaction of its own. They run as the worker role and see every tenant's rows;
served by the ledger's indexes on position and on rows without one.
"""

from __future__ import annotations

_ROW = (
    "ledger.tenant_id, ledger.id, ledger.event_id, ledger.entity_id, ledger.revision, ledger.type, ledger.before,"
    " ledger.after, ledger.changed, ledger.actor, ledger.cause_event_id, ledger.trace_context, ledger.occur_time,"
    " ledger.commit_time, ledger.position"
)


STATE = (
    "SELECT last_position, watermark, stream_seq, event_id,"
    " EXISTS (SELECT FROM ledger WHERE position IS NULL) AS unnumbered FROM relay WHERE id = 1"
)

# $1 the last position as this relay knows it, $2 at most so many rows. A statement that waits for another relay's
# lock still sees the ledger as it was before it waited; the row of the state is looked at again, though, and where
# the other has numbered anything meanwhile it does not fit any more, and nothing is numbered here.
NUMBER = f"""
WITH state AS MATERIALIZED (
    SELECT last_position FROM relay WHERE id = 1 AND last_position = $1 FOR UPDATE
), free AS MATERIALIZED (
    SELECT tenant_id, id, commit_time, row_number() OVER (ORDER BY id) AS place
    FROM (SELECT tenant_id, id, commit_time FROM ledger WHERE position IS NULL ORDER BY id LIMIT $2) AS oldest
), advanced AS (
    UPDATE relay SET last_position = state.last_position + (SELECT count(*) FROM free)
    FROM state WHERE relay.id = 1 AND EXISTS (SELECT FROM free)
), numbered AS (
    UPDATE ledger SET position = state.last_position + free.place FROM state, free
    WHERE (ledger.tenant_id, ledger.id, ledger.commit_time) = (free.tenant_id, free.id, free.commit_time)
    RETURNING {_ROW}
)
SELECT * FROM numbered ORDER BY position
"""  # noqa: S608 - made of constants

# $1 the watermark, $2 at most so many rows.
UNPUBLISHED = f"SELECT {_ROW} FROM ledger WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608

# From the watermark $1 to $2; $3 and $4 say where the stream keeps the event there. It may return before it is on
# disk: a watermark that a crash takes back has events published twice and loses none.
MOVE = (
    "WITH lazy AS (SELECT set_config('synchronous_commit', 'off', true))"
    " UPDATE relay SET watermark = $2, stream_seq = $3, event_id = $4 FROM lazy WHERE id = 1 AND watermark = $1"
    " RETURNING watermark"
)

# The position before what was committed from $1 on.
BEFORE = "SELECT min(position) - 1 FROM ledger WHERE commit_time >= $1 AND position IS NOT NULL"
# From the watermark $1 back to $2.
SET_BACK = "UPDATE relay SET watermark = $2, stream_seq = 0, event_id = NULL WHERE id = 1 AND watermark = $1"
AGE_LIMIT = "SELECT clock_timestamp() - make_interval(secs => $1)"
