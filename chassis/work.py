"""A unit of work: what one call reads and changes in one transaction, with the ledger row of every change.

Changes are collected and written together by ``flush``, after the rows they concern were locked.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis import context, contract, ids, telemetry
from chassis.checks import check_required
from chassis.db import Tx
from chassis.errors import Aborted, AlreadyExists, Denied, Invalid, Precondition, Reason, invalid
from chassis.keys import Key, claim
from chassis.resource import Record, Resource
from chassis.rows import etag, moment, timestamp
from chassis.search.index import Arrays, spelling_rows, term_rows
from chassis.writes import MAX_CHANGES, MAX_KEYS, Part, bound, bounds, one, raced, together

M = TypeVar("M", bound=Message)

# How far a caller's clock may run ahead before its "now" counts as the future.
CLOCK_TOLERANCE: Final = dt.timedelta(seconds=5)


@dataclass
class _Change:
    resource: Resource[Any]
    verb: str
    before: Message | None
    after: Message
    revision: int
    occur_time: dt.datetime
    record: Record[Any] | None = None
    event_id: UUID = field(default_factory=ids.new_uuid)


class View(Tx):
    """A transaction that reads records."""

    def __init__(self, tx: Tx, method: contract.Method | None = None) -> None:
        super().__init__(tx._session, tx.tenant, tx.schema, tx._clock)
        self._now = tx._now
        self._gathered = tx._gathered
        self.method = method

    async def get(self, resource: Resource[M], record_id: str) -> M:
        """The record, deleted or not. Raises NotFound where there is none that the caller may see."""
        return resource.message.FromString(await self.get_body(resource, record_id))

    async def get_body(self, resource: Resource[Any], record_id: str) -> bytes:
        """The record as it is kept. Raises NotFound where there is none that the caller may see."""
        uuid, owners = resource.uuid(record_id), resource.owners()
        if owners is None:
            row = await self.row_by_id(resource.read_many, uuid)
        else:
            rows = await self.rows_alone(resource.read_many_visible, {"ids": [uuid], "visible": owners})
            row = rows[0] if rows else None
        if row is None:
            raise resource.missing(record_id)
        body: bytes = row["record"]
        return body

    async def get_many(self, resource: Resource[M], record_ids: Sequence[str]) -> dict[str, M]:
        """Those of the records that exist and the caller may see, by id."""
        found = await self.get_bodies(resource, record_ids)
        return {each: resource.message.FromString(body) for each, body in found.items()}

    async def get_bodies(self, resource: Resource[Any], record_ids: Sequence[str]) -> dict[str, bytes]:
        """Those of the records that exist and the caller may see, as they are kept, by id."""
        wanted = {each: resource.uuid(each) for each in record_ids}
        given = {"ids": list(set(wanted.values()))}
        if (owners := resource.owners()) is None:
            rows = await self.rows_alone(resource.read_many, given)
        else:
            rows = await self.rows_alone(resource.read_many_visible, {**given, "visible": owners})
        found = {row["id"]: row["record"] for row in rows}
        return {each: found[uuid] for each, uuid in wanted.items() if uuid in found}

    async def sees(self, resource: Resource[Any], uuid: UUID) -> bool:
        """Whether the caller may see the record of an id that came from elsewhere than the caller."""
        return resource.owners() is None or bool(await self.get_bodies(resource, [resource.id_of(uuid)]))


class Raced(Aborted):
    """Another writer changed a record between its reading and the writing; nothing was written."""

    def __init__(self) -> None:
        super().__init__(Reason.REASON_CONFLICT, "another writer was faster; try again", retry_s=0.05)


class Work(View):
    """A transaction that changes records. Nothing is written before ``flush``, which the RPC wrapper calls.

    An ``optimistic`` one takes no locks where it need not: it reads, and writes only if all that it read so is still
    the same. Then ``flush`` may raise Raced, and the whole is to be done again with another one that is not.
    """

    def __init__(self, tx: Tx, method: contract.Method | None = None, *, optimistic: bool = False) -> None:
        super().__init__(tx, method)
        self._optimistic = optimistic
        # The revisions of what was read without a lock and has to be the same when the changes are written.
        self._assumed: dict[tuple[Resource[Any], UUID], int] = {}
        self._changes: list[_Change] = []
        self._written = 0
        # What a repeated call is answered with where that must differ from the first answer, as with secrets.
        self.remembered: Message | None = None

    async def lock(self, resource: Resource[M], record_id: str, etag: str = "", *, deleted: bool = False) -> Record[M]:
        """The record, locked until the transaction ends, so that writers wait for each other; or optimistically read.

        Raises NotFound, also where the caller may not see it; Aborted (ETAG_MISMATCH, with the current etag) where
        ``etag`` is another; Precondition (DELETED) for a deleted one unless ``deleted``.
        """
        uuid, owners = resource.uuid(record_id), resource.owners()
        if self._optimistic and resource.optimistic and not self.begun:
            row = await self._look(resource, uuid, owners)
        elif owners is None:
            row = next(iter(await self.rows(resource.lock_one, {"id": uuid})), None)
        else:
            row = next(iter(await self.rows(resource.lock_visible, {"id": uuid, "visible": owners})), None)
        if row is None:
            raise resource.missing(record_id)
        self.saw_clock(row.clock)
        record = self._record(resource, row)
        check_lock(record, etag, deleted=deleted)
        return record

    async def _look(self, resource: Resource[Any], uuid: UUID, owners: list[UUID] | None) -> Any:
        if owners is None:
            row = await self.row_by_id(resource.look_many, uuid)
        else:
            found = await self.rows_alone(resource.look_many_visible, {"ids": [uuid], "visible": owners})
            row = next(iter(found), None)
        if row is not None:
            self._assumed[resource, uuid] = row.revision
        return row

    async def share(self, resource: Resource[M], record_id: str) -> M | None:
        """The record, deleted or not, which stays as it is until the changes are written; None where there is none.

        Others may share it at the same time. Whoever may see it, for it is what the work stands on.
        """
        uuid = resource.uuid(record_id)
        if not self._optimistic or self.begun:
            rows = await self.rows(resource.share_one, {"id": uuid})
            return resource.read(rows[0]) if rows else None
        row = await self.row_by_id(resource.read_many, uuid)
        if row is None:
            return None
        self._assumed[resource, uuid] = row.revision
        return resource.read(row)

    async def lock_many(self, resource: Resource[M], record_ids: Iterable[str]) -> dict[str, Record[M]]:
        """Those of the records that exist and the caller may see, locked, by id; deleted ones too."""
        wanted = sorted({resource.uuid(each) for each in record_ids})
        if not wanted:
            return {}
        if (owners := resource.owners()) is None:
            rows = await self.rows(resource.lock_many, {"ids": wanted})
        else:
            rows = await self.rows(resource.lock_many_visible, {"ids": wanted, "visible": owners})
        for row in rows:
            self.saw_clock(row.clock)
        return {ids.encode(resource.kind.prefix, row.id): self._record(resource, row) for row in rows}

    def _record(self, resource: Resource[M], row: Any) -> Record[M]:
        before = resource.read(row)
        after = resource.message()
        after.CopyFrom(before)
        return Record(resource, before, after, row.revision)

    async def create(
        self, resource: Resource[M], record: M, *, occur_time: Timestamp | dt.datetime | None = None,
        record_id: UUID | None = None, claimed: bool = False,
    ) -> M:  # fmt: skip
        """A new record with what ``record`` says; the answer is the record as it will be.

        ``record_id`` fixes its id, where the same record must come out of a repetition. ``claimed`` says that its
        keys were claimed before. Raises Invalid, AlreadyExists (KEY_TAKEN), Denied for a backdated time.
        """
        now = await self.now()
        after = resource.message()
        after.CopyFrom(record)
        after.id = ids.encode(resource.kind.prefix, record_id or ids.new_uuid())  # type: ignore[attr-defined]
        happened = await self.happened(resource, occur_time)
        stamp = timestamp(now)
        after.create_time.CopyFrom(stamp)  # type: ignore[attr-defined]
        after.update_time.CopyFrom(stamp)  # type: ignore[attr-defined]
        if resource.kind.occur_field:
            getattr(after, resource.kind.occur_field).CopyFrom(timestamp(happened))
        resource.normalize(after)
        if resource.prepare is not None:
            await resource.prepare(self, after, None)
        check_required(after)
        _check_custom(after)
        after.etag = etag(1)  # type: ignore[attr-defined]
        if not claimed:
            await self._claim(resource, after)
        self._changes.append(_Change(resource, "created", None, after, 1, happened))
        return after

    async def update(
        self, record: Record[M], verb: str = "updated", *, occur_time: Timestamp | dt.datetime | None = None,
        claimed: bool = False,
    ) -> M:  # fmt: skip
        """Writes ``record.after`` as the record's next revision; the answer is the record as it will be.

        An ``updated`` or ``reverted`` that changes nothing writes nothing. A record may be updated several times in one
        unit of work.
        """
        resource, after = record.resource, record.after
        resource.normalize(after)
        if resource.prepare is not None:
            await resource.prepare(self, after, record.before)
        if verb in ("updated", "reverted") and after == record.before:
            return record.before
        check_required(after)
        _check_custom(after)
        now = await self.now()
        happened = await self.happened(resource, occur_time)
        after.update_time.CopyFrom(timestamp(now))  # type: ignore[attr-defined]
        after.etag = etag(record.revision + 1)  # type: ignore[attr-defined]
        if not claimed:
            await self._claim(resource, after, record.before)
        self._changes.append(_Change(resource, verb, record.before, after, record.revision + 1, happened, record))
        record.before, record.revision = after, record.revision + 1
        record.after = resource.message()
        record.after.CopyFrom(after)
        return after

    def record_of(self, resource: Resource[M], created: M) -> Record[M]:
        """A record that this unit of work created, to change it further."""
        after = resource.message()
        after.CopyFrom(created)
        return Record(resource, created, after, int(created.etag.strip('"')))  # type: ignore[attr-defined]

    async def _claim(self, resource: Resource[M], after: M, before: M | None = None) -> None:
        held = {key for key in resource.keys(before) if key.exclusive} if before is not None else set()
        wanted = [key for key in resource.keys(after) if key.exclusive and key not in held]
        if not wanted or after.HasField("delete_time"):
            return
        taken = await claim(self, resource.kind.prefix, wanted)
        uuid = resource.uuid(after.id)  # type: ignore[attr-defined]
        for key in wanted:
            if holder := next((each for each in taken.get(key, ()) if each != uuid), None):
                raise await self.taken(resource, key, holder)

    async def taken(self, resource: Resource[Any], key: Key, holder: UUID) -> AlreadyExists:
        """The failure for a key that another record holds; it names the record where the caller may see it."""
        shown = {"id": resource.id_of(holder)} if await self.sees(resource, holder) else {}
        return key_taken(resource, key, **shown)

    async def happened(self, resource: Resource[Any], occur_time: Timestamp | dt.datetime | None) -> dt.datetime:
        """When a change happened of which a caller says ``occur_time``; now where it says nothing.

        Raises Invalid (TIME_INVALID) for the future, Denied for the past without the permission to backdate.
        """
        now = await self.now()
        if occur_time is None or (isinstance(occur_time, Timestamp) and not occur_time.ByteSize()):
            return now
        given = moment(occur_time) if isinstance(occur_time, Timestamp) else occur_time
        if given > now + CLOCK_TOLERANCE:
            raise invalid("occur_time", "it lies in the future", Reason.REASON_TIME_INVALID)
        permission = f"{resource.kind.plural}.backdate"
        call = context.current_or_none()
        if given < now - CLOCK_TOLERANCE and call is not None and not call.caller.may(permission):
            raise Denied(Reason.REASON_PERMISSION_DENIED, f"a time in the past needs the permission '{permission}'")
        return min(given, now)

    def pending(self, resource: Resource[M]) -> dict[str, M]:
        """The records of a kind that this unit of work changes and has not written yet, as they will be, by id."""
        return {change.after.id: change.after for change in self._changes if change.resource is resource}  # type: ignore[attr-defined, misc]

    @property
    def changed(self) -> int:
        """How many changes were collected, written or not."""
        return self._written + len(self._changes)

    def forget_since(self, mark: int) -> None:
        """Drops the changes collected after ``changed`` was ``mark``: an item of a batch failed half-way."""
        at = max(0, mark - self._written)
        for change in reversed(self._changes[at:]):
            if change.record is not None:
                _take_back(change.record, change)
        del self._changes[at:]

    async def flush(self, request_id: UUID | None = None, answer: _Row | None = None) -> None:
        """Writes every collected change: rows, natural keys and ledger; and the row that keeps a call's answer."""
        changes, self._changes = self._changes, []
        self._written += len(changes)
        if not changes and answer is None:
            return
        now = await self.now()
        ledger = [self._ledger_row(change, now, request_id) for change in changes]
        gone, new = _key_rows(changes)
        index = await self._index(changes)
        answers = [answer] if answer is not None else []
        if len(changes) <= MAX_CHANGES and len(gone) <= MAX_KEYS and len(new) <= MAX_KEYS:
            await self._write_together(changes, index, gone=gone, keys=new, ledger=ledger, answer=answers)
            return
        await self._write_rows(changes)
        if self._assumed:
            await self._write_together([], {})
        for kind, rows in (("gone", gone), ("keys", new), ("ledger", ledger), ("answer", answers)):
            await self.execute_many(one(self.schema, kind), rows)
        if index:
            parts, values = _array_parts(0, index)
            await self.rows(together(self.schema, parts), values)

    async def _index(self, changes: list[_Change]) -> dict[str, Arrays]:
        """What the changes mean for text search, by the kind of the part that writes it."""
        found = term_rows((first.before, last.after) for first, last in _ends(changes))
        found["spellings"] = await spelling_rows(self, found["first_terms"], found["terms"])
        return {kind: arrays for kind, arrays in found.items() if arrays}

    async def _write_together(self, changes: list[_Change], index: dict[str, Arrays], **others: list[_Row]) -> None:
        """Everything in one statement, as most calls need it; without a transaction around it where it is the first."""
        parts: list[Part] = []
        values: _Row = {}

        def add(kind: str, what: Resource[Any] | int, rows: list[_Row]) -> None:
            for index, row in enumerate(rows):
                values.update(zip(bounds(len(parts), index, tuple(row)), row.values(), strict=True))
            parts.append((kind, what))

        for resource, row, seen in self._row_states(changes):
            add("insert" if seen is None else "update", resource, [row if seen is None else {**row, "seen": seen}])
        assumed, self._assumed = self._assumed, {}
        for (resource, uuid), revision in assumed.items():
            add("same", resource, [{"id": uuid, "seen": revision}])
        for kind, rows in others.items():
            if rows:
                add(kind, len(rows), rows)
        more, arrays = _array_parts(len(parts), index)
        parts += more
        values.update(arrays)
        try:
            await self.rows_alone(together(self.schema, tuple(parts)), values, writes=True)
        except Exception as error:
            if raced(error):
                raise Raced from error
            raise

    def _row_states(self, changes: list[_Change]) -> Iterator[tuple[Resource[Any], _Row, int | None]]:
        """Each record's last state and the revision that it has in the table, None for a new one."""
        for first, last in _ends(changes):
            row = last.resource.row(last.after, last.revision)
            self._assumed.pop((last.resource, row["id"]), None)  # its update says so itself
            yield last.resource, row, None if first.before is None else first.revision - 1

    async def _write_rows(self, changes: list[_Change]) -> None:
        inserts: dict[Resource[Any], list[_Row]] = {}
        for resource, row, seen in self._row_states(changes):
            values = {f"v_{name}": value for name, value in row.items()}
            if seen is None:
                inserts.setdefault(resource, []).append(values)
            elif await self.execute(resource.update, {**values, "seen": seen}) != 1:
                raise Raced
        for resource, rows in inserts.items():
            await self.execute_many(resource.insert, rows)

    def _ledger_row(self, change: _Change, now: dt.datetime, request_id: UUID | None) -> dict[str, Any]:
        call = context.current_or_none()
        before = change.before
        return {
            "event_id": change.event_id,
            "entity_id": change.after.id,  # type: ignore[attr-defined]
            "revision": change.revision,
            "type": f"{change.resource.kind.full_name}.{change.verb}",
            "before": before.SerializeToString() if before is not None else b"",
            "after": change.after.SerializeToString(),
            "changed": changed_fields(before, change.after),
            "actor": call.caller.principal if call else f"service:{self.schema.name}",
            "cause_event_id": call.cause_event_id if call else None,
            "request_id": request_id,
            "trace_context": telemetry.traceparent(),
            "occur_time": change.occur_time,
            "commit_time": now,
        }


def _array_parts(first: int, index: dict[str, Arrays]) -> tuple[tuple[Part, ...], _Row]:
    """The parts whose rows come as arrays, and their parameters; ``first`` is the number of the first of them."""
    numbered = list(enumerate(index.items(), first))
    values = {bound(number, 0, name): each for number, (_, arrays) in numbered for name, each in arrays.items()}
    return tuple((kind, 1) for kind in index), values


def _take_back(record: Record[Any], change: _Change) -> None:
    """A later item of the batch may change the record from where it was."""
    record.before, record.revision = change.before, change.revision - 1
    record.after = record.resource.message()
    record.after.CopyFrom(change.before)


def _check_custom(after: Message) -> None:
    """Raises Invalid, CUSTOM_FIELD_UNKNOWN: nobody can define custom fields yet, so no key has a definition."""
    if not contract.descriptor_of(after).fields_by_name.get("custom"):
        return
    for key in sorted(after.custom.fields):  # type: ignore[attr-defined]
        message = f"there is no custom field '{key}'"
        raise Invalid(
            Reason.REASON_CUSTOM_FIELD_UNKNOWN,
            f"custom: {message}",
            metadata={"field": f"custom.{key}"},
            violations=[(f"custom.{key}", message)],
        )


_Row = dict[str, Any]


def _ends(changes: list[_Change]) -> list[tuple[_Change, _Change]]:
    """Each record's first and last change. What lies between stands in the ledger alone."""
    first: dict[str, _Change] = {}
    last: dict[str, _Change] = {}
    for change in changes:
        key = change.after.id  # type: ignore[attr-defined]
        first.setdefault(key, change)
        last[key] = change
    return [(first[key], last[key]) for key in first]


def _key_rows(changes: list[_Change]) -> tuple[list[_Row], list[_Row]]:
    """The natural keys that go and those that come. A deleted record holds none."""
    gone: list[_Row] = []
    new: list[_Row] = []
    for first, last in _ends(changes):
        before, after = _held(last.resource, first.before), _held(last.resource, last.after)
        uuid = last.resource.uuid(last.after.id)  # type: ignore[attr-defined]
        prefix = last.resource.kind.prefix
        gone += [_key_row(prefix, key, uuid) for key in before - after]
        new += [_key_row(prefix, key, uuid) | {"exclusive": key.exclusive} for key in after - before]
    return gone, new


def _held(resource: Resource[Any], record: Message | None) -> set[Key]:
    return set() if record is None or record.HasField("delete_time") else set(resource.keys(record))


def _key_row(prefix: str, key: Key, uuid: UUID) -> _Row:
    return {"resource": prefix, "kind": key.kind, "value": key.value, "id": uuid}


def check_lock(record: Record[Any], wanted: str, *, deleted: bool = False) -> None:
    """Raises Aborted where ``wanted`` is not the record's etag, Precondition where it is deleted and must not be."""
    current = record.before.etag
    if wanted and wanted != current:
        raise Aborted(
            Reason.REASON_ETAG_MISMATCH,
            f"the record has changed: its etag is {current}, not {wanted}; read it again",
            metadata={"etag": current},
        )
    if record.before.HasField("delete_time") and not deleted:
        raise Precondition(Reason.REASON_DELETED, f"{record.before.id} is deleted; undelete it first")


def key_taken(resource: Resource[Any], key: Key, **shown: str) -> AlreadyExists:
    """The failure for a key that another record holds, with what may be ``shown`` of that one."""
    return AlreadyExists(
        Reason.REASON_KEY_TAKEN,
        f"another {resource.kind.prefix} holds this {key.kind}",
        metadata={"kind": key.kind, **shown},
    )


# They change with every write and say nothing of their own.
_BOOKKEEPING: Final = frozenset({"etag", "update_time"})


def changed_fields(before: Message | None, after: Message) -> list[str]:
    """The names of the fields that differ, in the order of the message; all that are set for a new record."""
    had = {} if before is None else {field.number: value for field, value in before.ListFields()}
    differing: list[Any] = []
    for each, value in after.ListFields():
        if each.number not in had or had.pop(each.number) != value:
            differing.append(each)
    differing += [after.DESCRIPTOR.fields_by_number[number] for number in had]
    return [each.name for each in sorted(differing, key=_place) if each.name not in _BOOKKEEPING]


_place = attrgetter("index")
