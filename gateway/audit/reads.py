"""The log of reads as it is written: noted in memory when a call ends, and kept in the database soon after.

Nothing waits for it. What is noted is written within half a second, a tenant's notes in one statement.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import deque
from typing import Any, Final, NamedTuple
from uuid import UUID

from crm.type.v1.audit_entry_pb2 import AUDIT_KIND_DENIED, AUDIT_KIND_READ
from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Text, Uuid, bindparam, func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis import ids, telemetry
from chassis.context import Caller
from chassis.contract import Method
from chassis.db import Database, Time
from chassis.errors import Aborted, DeadlineExceeded, Denied, Failure, NotFound, Unauthenticated, Unavailable
from gateway.audit.asked import NOTHING, Asked, asked_of, shown
from gateway.audit.facts import NO_FACTS, Facts, facts_of
from gateway.audit.tables import audit_heads, audit_reads
from gateway.identity.authenticate import Recognised
from gateway.peer import PEER, network

_EVERY_S: Final = 0.5
# Rows a statement; and notes made into rows before others have their turn.
_AT_ONCE: Final = 500
# Notes that wait for the database. Nobody is let in while it is away, so there are never many.
_BACKLOG: Final = 50_000
_STOP_S: Final = 5.0

log = telemetry.logger()

_COLUMNS: tuple[Column[Any], ...] = (
    Column("number", BigInteger), Column("id", Uuid), Column("time", Time), Column("kind", SmallInteger),
    Column("principal", Text), Column("credential", Text), Column("method", Text), Column("resource", Text),
    Column("record_id", Text), Column("record_ids", ARRAY(Text)), Column("query", Text), Column("row_count", Integer),
    Column("outcome", Text), Column("request_id", Text), Column("trace_id", Text), Column("network", Text),
)  # fmt: skip


def _append() -> Any:
    """Takes the tenant's next positions, which makes others wait until these are committed, and writes the rows."""
    count = bindparam("count", type_=BigInteger)
    tenant = bindparam("tenant", type_=Uuid)
    head = (
        postgresql.insert(audit_heads)
        .values(tenant_id=tenant, last_position=count)
        .on_conflict_do_update(
            index_elements=[audit_heads.c.tenant_id], set_={"last_position": audit_heads.c.last_position + count}
        )
        .returning(audit_heads.c.last_position)
        .cte("head")
    )
    given = func.jsonb_to_recordset(bindparam("rows", type_=JSONB)).table_valued(*_COLUMNS, name="given")
    given = given.render_derived(name="given", with_types=True)
    names = [column.name for column in _COLUMNS[1:]]
    rows = select(
        tenant, head.c.last_position - count + given.c.number, *(given.c[name] for name in names)
    ).select_from(head.join(given, head.c.last_position > 0))
    written = insert(audit_reads).from_select(["tenant_id", "position", *names], rows)
    return select(func.count()).select_from(written.returning(audit_reads.c.position).cte("written"))


_APPEND: Final = _append()
_IS_THERE: Final = select(audit_reads.c.position).where(
    audit_reads.c.tenant_id == bindparam("tenant"),
    audit_reads.c.time == bindparam("time"),
    audit_reads.c.id == bindparam("id"),
)


class _Note(NamedTuple):
    at: float
    caller: Caller
    method: Method | None
    request: bytes
    outcome: str
    rows: int | None
    row_ids: tuple[str, ...]
    request_id: str
    trace_id: str
    peer: str


class _Batch:
    """Rows of one tenant that are written together or not at all."""

    def __init__(self, tenant: UUID, rows: list[dict[str, Any]]) -> None:
        self.tenant = tenant
        self.rows = rows
        self.tried = False


class ReadLog:
    """Notes who read what and who was refused."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._notes: deque[_Note] = deque()
        self._batches: list[_Batch] = []
        self._waiting = 0
        self._writing = asyncio.Lock()
        # Notes that were never written: too many waited, or the database refused them.
        self.lost = 0

    def answered(self, method: Method, request: bytes, answer: bytes, caller: Caller, request_id: str) -> None:
        """Notes an answer that may tell of people, unless a ledger knows of the call."""
        facts = facts_of(method)
        if facts.kind:
            rows, row_ids = shown(facts, answer) if facts.rows else (None, ())
            self._note(method, request, caller, request_id, "OK", rows, row_ids)

    def failed(self, method: Method, request: bytes, failure: Failure, caller: Caller, request_id: str) -> None:
        """Notes that a call was refused, or that there was nothing to read."""
        refused = isinstance(failure, (Denied, Unauthenticated))
        if refused or (isinstance(failure, NotFound) and facts_of(method).kind == AUDIT_KIND_READ):
            self._note(method, request, caller, request_id, failure.reason_name)

    def turned_away(self, method: Method | None, failure: Failure, request_id: str) -> None:
        """Notes that a call was refused at the door, where it came with a credential that is known."""
        if isinstance(failure, Recognised):
            self._note(method, b"", failure.known, request_id, failure.reason_name)

    def _note(
        self, method: Method | None, request: bytes, caller: Caller, request_id: str, outcome: str,
        rows: int | None = None, row_ids: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        if self._waiting >= _BACKLOG:
            self._lose(1, "too many wait for the database")
            return
        self._waiting += 1
        trace_id = telemetry.trace_id()
        self._notes.append(
            _Note(time.monotonic(), caller, method, request, outcome, rows, row_ids, request_id, trace_id, PEER.get())
        )

    async def run(self) -> None:
        """Writes what was noted, for ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Writes all that was noted until now. What cannot be written now is kept for the next time."""
        async with self._writing:
            while self._notes:
                self._take(_AT_ONCE)
                await asyncio.sleep(0)
            while self._batches and await self._written(self._batches[0]):
                self._waiting -= len(self._batches.pop(0).rows)

    async def close(self) -> None:
        """Writes the last; says how many could not be."""
        try:
            async with asyncio.timeout(_STOP_S):
                await self.flush()
        except TimeoutError:
            log.warning("the last reads took too long to write")
        if self._waiting:
            self._lose(self._waiting, "the process stops")

    def _take(self, most: int) -> None:
        """Makes notes into rows, a batch for each tenant."""
        now, clock = time.monotonic(), self._db.clock.now() or dt.datetime.now(dt.UTC)
        found: dict[UUID, list[dict[str, Any]]] = {}
        while self._notes and most:
            note = self._notes.popleft()
            rows = found.setdefault(note.caller.tenant, [])
            rows.append(_row(len(rows) + 1, note, clock - dt.timedelta(seconds=now - note.at)))
            most -= 1
        self._batches += [_Batch(tenant, rows) for tenant, rows in found.items()]

    async def _written(self, batch: _Batch) -> bool:
        """Whether a batch is done with: written, or refused for good."""
        try:
            async with self._db.write(batch.tenant) as tx:
                first = {"time": dt.datetime.fromisoformat(batch.rows[0]["time"]), "id": UUID(batch.rows[0]["id"])}
                # An attempt that failed may have been committed all the same.
                if not (batch.tried and await tx.rows(_IS_THERE, first)):
                    batch.tried = True
                    await tx.rows(_APPEND, {"rows": batch.rows, "count": len(batch.rows)})
        except (Unavailable, DeadlineExceeded, Aborted) as failure:
            log.warning("reads wait to be logged", waiting=self._waiting, error=failure.message)
            return False
        except Exception as error:
            self._lose(len(batch.rows), "the database refuses them", error)
        return True

    def _lose(self, count: int, why: str, error: BaseException | None = None) -> None:
        self.lost += count
        # One line for a burst, at each power of two.
        if self.lost.bit_length() != (self.lost - count).bit_length():
            log.error("reads were not logged", why=why, lost=self.lost, exc_info=error)


def _row(number: int, note: _Note, at: dt.datetime) -> dict[str, Any]:
    facts = facts_of(note.method) if note.method is not None else NO_FACTS
    asked = asked_of(facts, note.method, note.request) if note.method is not None else NOTHING
    return {
        "number": number,
        "id": str(ids.new_uuid()),
        "time": at.isoformat(),
        "kind": _kind(facts, asked, note.outcome),
        "principal": note.caller.principal,
        "credential": note.caller.credential,
        "method": facts.name,
        "resource": facts.resource or asked.resource,
        "record_id": asked.record_id,
        "record_ids": note.row_ids or asked.record_ids,
        "query": asked.query,
        "row_count": note.rows,
        "outcome": note.outcome,
        "request_id": note.request_id,
        "trace_id": note.trace_id,
        "network": network(note.peer),
    }


def _kind(facts: Facts, asked: Asked, outcome: str) -> int:
    if outcome not in ("OK", "NOT_FOUND"):
        return AUDIT_KIND_DENIED
    return AUDIT_KIND_READ if asked.rehearses else facts.kind
