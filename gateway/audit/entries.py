"""Entries of the audit: the ledgers of all services and the log of reads, merged by time."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from crm.gateway.v1 import audit_entries_pb2 as pb
from crm.internal.v1 import audit_entry_pb2 as internal
from crm.type.v1.audit_entry_pb2 import AuditEntry
from sqlalchemy import Subquery, Text, cast, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.clients import HOP_MARGIN_S
from chassis.context import Call, Caller, fields_for
from chassis.contract import load
from chassis.entries import Asked, Place, entry_of, find, hiding, of_ledger
from chassis.errors import DeadlineExceeded, Failure, Invalid, Reason
from chassis.query import Page, condition, page_of
from chassis.rows import moment, timestamp
from chassis.service import Service, saga
from chassis.settings import KINDS
from gateway.audit.facts import sees_all, sees_every_field
from gateway.audit.reads import ReadLog
from gateway.audit.tables import audit_reads

_PATH: Final = "/crm.internal.v1.AuditEntryService/ListEntries"
_READS: Final = "reads"
_LOGS: Final = (*KINDS, _READS)
# A part that has not answered by then is named as missing.
_PATIENCE_S: Final = 5.0
_BEGINNING, _ENDED = 0, -1

# Where an entry stands among those of all logs, the newest first: its time, its log, its number, the first two turned.
Key = tuple[float, int, int]


class AuditEntries(Service, serves="crm.gateway.v1.AuditEntryService"):
    """Tells who did, read or was refused what."""

    reads: ReadLog

    @saga
    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, call: Call) -> pb.ListAuditEntriesResponse:
        """A page of entries. Raises Invalid for a bad filter or token."""
        start = moment(request.start_time) if request.HasField("start_time") else None
        end = moment(request.end_time) if request.HasField("end_time") else None
        query = (call.caller.tenant, call.method, request.filter, start, end)
        page = page_of(self.platform.sealer, request.page_size, request.page_token, query)
        condition(request.filter, AuditEntry.DESCRIPTOR, _log_for(call.caller))
        if page.after is None:
            # So that whoever asks sees what came before, as far as this process knows of it.
            await self.reads.flush()
        places = _opened(page)
        asked = Asked(request.filter, page.size, None, start, end)
        logs = [index for index, place in enumerate(places) if place.number != _ENDED]
        answers = await asyncio.gather(*(self._ask(_LOGS[each], asked, places[each], call) for each in logs))
        response = pb.ListAuditEntriesResponse()
        parts = []
        for index, answer in zip(logs, answers, strict=True):
            if isinstance(answer, Failure):
                response.missing.add(part=_LOGS[index], reason=answer.reason_name, message=answer.message)
            else:
                parts.append(_Part(index, answer))
        merged = _merge(parts, page.size)
        response.entries.extend(_shown(entry, call.caller) for entry in merged.entries)
        for index, place in merged.places.items():
            places[index] = place or places[index]
        if any(places[part.index].number != _ENDED for part in parts):
            response.next_page_token = page.next_token([value for place in places for value in place])
        return response

    async def _ask(self, log: str, asked: Asked, place: _Stand, call: Call) -> internal.ListEntriesResponse | Failure:
        """What a log has after a place, or why it cannot say. Raises Invalid for a bad question."""
        if place.time is not None:
            asked = Asked(asked.filter, asked.limit, Place(place.time, place.number), asked.start, asked.end)
        left = min(_PATIENCE_S, call.remaining_s() - HOP_MARGIN_S)
        try:
            async with asyncio.timeout(left):
                if log == _READS:
                    return await self._of_reads(asked, call.caller)
                if log == self.platform.kind:
                    return await of_ledger(self.platform.db, asked, call.caller)
                answer = await self.platform.channels.unary(log, _PATH, _message(asked), timeout_s=left)
                return internal.ListEntriesResponse.FromString(answer)
        except TimeoutError:
            return DeadlineExceeded(Reason.REASON_DEADLINE_EXCEEDED, f"not answered within {left:.1f} s")
        except Invalid:
            raise
        except Failure as failure:
            return failure

    async def _of_reads(self, asked: Asked, caller: Caller) -> internal.ListEntriesResponse:
        found = await find(self.platform.db, _log_for(caller), asked)
        response = internal.ListEntriesResponse(ended=found.ended)
        if found.reached is not None:
            response.reached_time.CopyFrom(timestamp(found.reached.time))
            response.reached_number = found.reached.number
        seen = {name: sees_all(caller, name) for name in {row.method for row in found.rows}}
        for row in found.rows:
            if seen[row.method]:
                response.entries.add(entry=entry_of(row), number=row.number)
        return response


class _Stand(NamedTuple):
    """Where a log stands: at a place, at its beginning, or at its end."""

    time: dt.datetime | None
    number: int


def _opened(page: Page) -> list[_Stand]:
    if page.after is None:
        return [_Stand(None, _BEGINNING)] * len(_LOGS)
    return [_Stand(*page.after[at : at + 2]) for at in range(0, len(page.after), 2)]


def _message(asked: Asked) -> bytes:
    request = internal.ListEntriesRequest(filter=asked.filter, limit=asked.limit)
    if asked.after is not None:
        request.after_time.CopyFrom(timestamp(asked.after.time))
        request.after_number = asked.after.number
    if asked.start is not None:
        request.start_time.CopyFrom(timestamp(asked.start))
    if asked.end is not None:
        request.end_time.CopyFrom(timestamp(asked.end))
    return request.SerializeToString()


def _log_for(caller: Caller) -> Subquery:
    return _reads(hiding("query", caller), hiding("changed", caller))


@cache
def _reads(query: str, changed: str) -> Subquery:
    """The log of reads with a column for each field of an entry, two of them under these names."""
    reads = audit_reads.c
    columns = (
        reads.tenant_id,
        reads.position.label("number"),
        cast(reads.id, Text).label("id"),
        *(
            column.label(query) if column.name == "query" else column
            for column in reads
            if column.name not in ("tenant_id", "position", "id")
        ),
        *(literal_column("''::text", Text).label(name) for name in ("type", "cause_event_id")),
        literal_column("'{}'::text[]", ARRAY(Text)).label(changed),
    )
    return select(*columns).subquery("entries")


@dataclass(frozen=True)
class _Part:
    index: int
    answer: internal.ListEntriesResponse

    def key(self, time: Any, number: int) -> Key:
        return -time.ToNanoseconds(), self.index, -number

    @property
    def reached(self) -> Key:
        """How far the log was looked through."""
        if self.answer.ended:
            return float("inf"), 0, 0
        return self.key(self.answer.reached_time, self.answer.reached_number)


class _Merged(NamedTuple):
    """Entries in order, and where each log stands after them; None for one that stands where it stood."""

    entries: list[AuditEntry]
    places: dict[int, _Stand | None]


def _merge(parts: Iterable[_Part], size: int) -> _Merged:
    """The next entries of all logs: none that an entry not looked at yet might come before."""
    parts = list(parts)
    known = [(part.key(each.entry.time, each.number), each) for part in parts for each in part.answer.entries]
    known.sort(key=lambda it: it[0])
    cut = min((part.reached for part in parts), default=(float("inf"), 0, 0))
    taken = [it for it in known if it[0] <= cut][:size]
    if len(taken) == size:
        cut = taken[-1][0]
    places: dict[int, _Stand | None] = {}
    for part in parts:
        mine = [each for key, each in taken if key[1] == part.index]
        if len(mine) < len(part.answer.entries):
            places[part.index] = _Stand(moment(mine[-1].entry.time), mine[-1].number) if mine else None
        elif part.answer.ended:
            places[part.index] = _Stand(None, _ENDED)
        else:
            places[part.index] = _Stand(moment(part.answer.reached_time), part.answer.reached_number)
    return _Merged([each.entry for _, each in taken], places)


def _shown(entry: AuditEntry, caller: Caller) -> AuditEntry:
    """An entry without what it says of fields that the caller may not read."""
    if not entry.type:
        if entry.query and not sees_every_field(caller, entry.method):
            entry.ClearField("query")
        return entry
    kind = load().by_message.get(entry.type.rpartition(".")[0])
    readable = fields_for(caller, kind.descriptor).readable if kind is not None else frozenset()
    changed = [each for each in entry.changed if each in readable]
    del entry.changed[:]
    entry.changed.extend(changed)
    return entry
