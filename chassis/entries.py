"""The ledger read as entries of the audit, the newest first: what every service lets the gateway ask."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from crm.internal.v1 import audit_entry_pb2 as pb
from crm.type.v1.audit_entry_pb2 import AUDIT_KIND_WRITE, AuditEntry
from sqlalchemy import (
    BigInteger,
    Integer,
    SmallInteger,
    Subquery,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import context
from chassis.change import in_sight
from chassis.context import Call, Caller
from chassis.contract import load
from chassis.db import Database, Schema, Time
from chassis.errors import DeadlineExceeded
from chassis.query import condition
from chassis.rows import moment, timestamp
from chassis.service import Service, saga
from chassis.sql import Row, written

# A filter that no index serves gets so long for all there is. Then so many rows are looked through at a time.
_WHOLE_S = 0.5
_STRIDE = 20_000
# The letters of a TypeID after its prefix, with the line between.
_SUFFIX: Final = 27
_EMPTY: Final = "''::text"
_HIDDEN: Final = "hidden_"


class Place(NamedTuple):
    """Where a reading stands in one log: what comes next is older, or as old with a lower number."""

    time: dt.datetime
    number: int


@dataclass(frozen=True)
class Asked:
    """Which entries of a log: so many after a place, of a range of time, that a filter takes."""

    filter: str = ""
    limit: int = 50
    after: Place | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None


class Found(NamedTuple):
    """Rows of a log, the newest first, how far it was looked through, and whether that is its end."""

    rows: list[Row]
    reached: Place | None
    ended: bool


class LedgerEntries(Service, serves="crm.internal.v1.AuditEntryService"):
    """Reads this service's ledger for the audit."""

    @saga
    async def ListEntries(self, request: pb.ListEntriesRequest, call: Call) -> pb.ListEntriesResponse:
        """Entries about records that the caller may see."""
        after = Place(moment(request.after_time), request.after_number) if request.HasField("after_time") else None
        asked = Asked(
            request.filter,
            request.limit,
            after,
            moment(request.start_time) if request.HasField("start_time") else None,
            moment(request.end_time) if request.HasField("end_time") else None,
        )
        return await of_ledger(self.platform.db, asked, call.caller)


async def of_ledger(db: Database, asked: Asked, caller: Caller) -> pb.ListEntriesResponse:
    """Entries of a service's ledger about records that the caller may see. Raises Invalid for a bad filter."""
    log = _ledger(db.schema, hiding("changed", caller), bodies=caller.access is not None)
    found = await find(db, log, asked)
    response = pb.ListEntriesResponse(ended=found.ended)
    for row in found.rows:
        if _may_see(row, caller):
            response.entries.add(entry=entry_of(row), number=row.number)
    if found.reached is not None:
        response.reached_time.CopyFrom(timestamp(found.reached.time))
        response.reached_number = found.reached.number
    return response


async def find(db: Database, log: Subquery, asked: Asked) -> Found:
    """The rows of a log that are asked for.

    ``log`` has the tenant, a number, and a column for each field of an entry; the same one each time. Raises Invalid
    for a bad filter.
    """
    call = context.current()
    shape = _Shape(
        log, asked.filter, asked.limit, asked.after is not None, asked.start is not None, asked.end is not None
    )
    values: dict[str, Any] = {"start": asked.start, "end": asked.end}
    if asked.after is not None:
        values |= {"after_time": asked.after.time, "after_number": asked.after.number}
    if not asked.filter.strip():
        return _ends(await _rows(db, call, _statement(shape), values), asked)
    if _WHOLE_S:
        try:
            soon = replace(call, deadline=min(call.deadline, time.monotonic() + _WHOLE_S))
            with context.enter(soon):
                return _ends(await _rows(db, soon, _statement(shape), values), asked)
        except DeadlineExceeded:
            if call.remaining_s() <= 0:
                raise
    return await _in_a_stride(db, call, shape, values, asked)


async def _in_a_stride(db: Database, call: Call, shape: _Shape, values: dict[str, Any], asked: Asked) -> Found:
    """What the next stride of a log holds; it may be nothing, and yet the log goes on."""
    last = await _rows(db, call, _statement(shape._replace(part=_FLOOR)), values)
    if not last:
        return _ends(await _rows(db, call, _statement(shape), values), asked)
    floor = Place(last[0].time, last[0].number)
    values |= {"floor_time": floor.time, "floor_number": floor.number}
    rows = await _rows(db, call, _statement(shape._replace(part=_PIECE)), values)
    return _ends(rows, asked) if len(rows) == asked.limit else Found(rows, floor, ended=False)


async def _rows(db: Database, call: Call, statement: Any, values: dict[str, Any]) -> list[Row]:
    async with db.read(call.caller.tenant) as tx:
        return await tx.rows(statement, values)


def _ends(rows: list[Row], asked: Asked) -> Found:
    if len(rows) < asked.limit:
        return Found(rows, None, ended=True)
    return Found(rows, Place(rows[-1].time, rows[-1].number), ended=False)


class _Shape(NamedTuple):
    """What makes a statement: all but the tenant, places and times. ``part`` is all of the log, or what _PIECE or
    _FLOOR mean."""

    log: Subquery
    filter: str
    limit: int
    after: bool
    start: bool
    end: bool
    part: str = ""


# What lies above a floor, and that floor: the last row of a stride, whatever the filter says.
_PIECE, _FLOOR = "piece", "floor"


def _asked(log: Subquery, asked: Asked) -> tuple[_Shape, dict[str, Any]]:
    """The statement of a question, and its parameters."""
    after, start, end = (each is not None for each in (asked.after, asked.start, asked.end))
    values: dict[str, Any] = {"start": asked.start, "end": asked.end}
    if asked.after is not None:
        values |= {"after_time": asked.after.time, "after_number": asked.after.number}
    return _Shape(log, asked.filter, asked.limit, after, start, end), values


@lru_cache(maxsize=256)
def _statement(shape: _Shape) -> Any:
    log = shape.log
    place = tuple_(log.c.time, log.c.number)
    found: Any = select(log) if shape.part != _FLOOR else select(log.c.time, log.c.number)
    found = found.where(log.c.tenant_id == bindparam("tenant"))
    if shape.after:
        time_, number = bindparam("after_time", type_=Time), bindparam("after_number", type_=BigInteger)
        # The first of the two is what an index begins with, also where the planner takes a partition each.
        found = found.where(log.c.time <= time_, place < tuple_(time_, number))
    if shape.start:
        found = found.where(log.c.time >= bindparam("start", type_=Time))
    if shape.end:
        found = found.where(log.c.time < bindparam("end", type_=Time))
    if shape.part == _PIECE:
        time_, number = bindparam("floor_time", type_=Time), bindparam("floor_number", type_=BigInteger)
        found = found.where(log.c.time >= time_, place >= tuple_(time_, number))
    found = found.order_by(log.c.time.desc(), log.c.number.desc())
    if shape.part == _FLOOR:
        return found.offset(written(_STRIDE - 1)).limit(written(1))
    return found.where(condition(shape.filter, AuditEntry.DESCRIPTOR, log)).limit(written(shape.limit))


def hiding(name: str, caller: Caller) -> str:
    """What the column of a field is called that may tell of hidden fields: what no filter finds, for whom any is."""
    return f"{_HIDDEN}{name}" if caller.access is not None and caller.access.hides else name


@cache
def _ledger(schema: Schema, changed: str, *, bodies: bool) -> Subquery:
    """A ledger with a column for each field of an entry; ``bodies`` adds the records."""
    ledger = schema.ledger.c
    empty = literal_column(_EMPTY, Text)
    columns: Sequence[Any] = (
        ledger.tenant_id,
        ledger.id.label("number"),
        cast(ledger.event_id, Text).label("id"),
        literal_column(str(AUDIT_KIND_WRITE), SmallInteger).label("kind"),
        ledger.commit_time.label("time"),
        ledger.actor.label("principal"),
        empty.label("credential"),
        empty.label("method"),
        ledger.type,
        func.left(ledger.entity_id, -_SUFFIX).label("resource"),
        ledger.entity_id.label("record_id"),
        literal_column("'{}'::text[]", ARRAY(Text)).label("record_ids"),
        ledger.changed.label(changed),
        empty.label("query"),
        literal_column("NULL::integer", Integer).label("row_count"),
        literal_column("'OK'::text", Text).label("outcome"),
        func.coalesce(cast(ledger.request_id, Text), empty).label("request_id"),
        func.split_part(ledger.trace_context, "-", 2).label("trace_id"),
        empty.label("network"),
        func.coalesce(cast(ledger.cause_event_id, Text), empty).label("cause_event_id"),
        *((ledger.before, ledger.after) if bodies else ()),
    )
    return select(*columns).subquery("entries")


def entry_of(row: Row) -> AuditEntry:
    """A row of a log as an entry."""
    entry = AuditEntry(time=timestamp(row.time))
    for field in AuditEntry.DESCRIPTOR.fields:
        value = row.get(field.name, row.get(_HIDDEN + field.name))
        if field.message_type is None and value is not None:
            if field.is_repeated:
                getattr(entry, field.name).extend(value)
            else:
                setattr(entry, field.name, value)
    return entry


def _may_see(row: Row, caller: Caller) -> bool:
    """Whether a caller may read the record that changed, as it was or as it is now."""
    resource = row.type.rpartition(".")[0]
    kind = load().by_message.get(resource)
    # A log that is read for who sees every record has no bodies.
    return kind is not None and in_sight(
        caller, resource, lambda: [kind.message.FromString(each) for each in (row.before, row.after) if each]
    )
