"""The batches of a resource that write (AIP-233 to 235): each item as its standard method would do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from crm.type.v1.common_pb2 import Outcome
from google.protobuf.message import Message

from chassis.checks import check, check_required, clear_output_only
from chassis.errors import Failure, invalid
from chassis.ids import decode
from chassis.resource import Record, Resource
from chassis.standard import Handler, Standard, check_size, required
from chassis.upsert import Upsert
from chassis.work import Work, check_lock

# So many items of a batch are done in one turn of the event loop.
_TURN: Final = 25


class Batches(Standard):
    """The standard methods of one resource, also those that write many records at once."""

    def handler(self, method: str) -> Handler | None:
        """The handler of a method by its name, or None where it is no standard one."""
        for prefix, handler in (
            ("BatchCreate", self.batch_create),
            ("BatchUpdate", self.batch_update),
            ("BatchDelete", self.batch_delete),
            ("BatchUpsert", self.batch_upsert),
        ):
            if method.startswith(prefix):
                return handler
        return super().handler(method)

    async def batch_create(self, request: Any, tx: Work) -> Message:
        """Makes many records."""
        items = self._items(request)
        for item in items:
            clear_output_only(self._resource_in(item))
        upsert = Upsert(self.resource, tx)
        await upsert.claim([self._resource_in(item) for item in items], exclusive_only=True)

        async def one(item: Any, _index: int) -> tuple[Message, int]:
            check(item)
            check_required(item)
            record = self._resource_in(item)
            self.resource.normalize(record)
            await upsert.refuse_taken(record)
            made = await self._create(item, record, tx, claimed=True)
            upsert.remember_exclusive(made)
            return made, Outcome.OUTCOME_CREATED

        return await self._each(request, items, tx, one)

    async def batch_update(self, request: Any, tx: Work) -> Message:
        """Changes many records."""
        items = self._items(request)
        records = await tx.lock_many(self.resource, _well_formed(self._resource_in(item).id for item in items))

        async def one(item: Any, _index: int) -> tuple[Message, int]:
            check(item)
            patch = self._resource_in(item)
            if not patch.id:
                raise required(f"{self.field}.id")
            record = _locked(self.resource, records, patch.id)
            check_lock(record, patch.etag)
            revision = record.revision
            made = await self._update(item, record, tx)
            return made, Outcome.OUTCOME_UPDATED if record.revision > revision else Outcome.OUTCOME_UNCHANGED

        return await self._each(request, items, tx, one)

    async def batch_delete(self, request: Any, tx: Work) -> Message:
        """Deletes many records softly."""
        items = self._items(request)
        records = await tx.lock_many(self.resource, _well_formed(item.id for item in items))

        async def one(item: Any, _index: int) -> tuple[Message, int]:
            check(item)
            check_required(item)
            record = _locked(self.resource, records, item.id)
            check_lock(record, item.etag)
            return await self._delete(item, record, tx), Outcome.OUTCOME_DELETED

        return await self._each(request, items, tx, one)

    async def batch_upsert(self, request: Any, tx: Work) -> Message:
        """Makes or changes many records, found by their natural keys."""
        items = self._items(request)
        for item in items:
            clear_output_only(self._resource_in(item))
        upsert = Upsert(self.resource, tx)
        await upsert.claim([self._resource_in(item) for item in items])
        await upsert.lock_matches()

        async def one(item: Any, _index: int) -> tuple[Message, int]:
            check(item)
            # Required fields may be left out of a record that exists; only the record itself must be there.
            if not item.HasField(self.field):
                raise required(self.field)
            record = self._resource_in(item)
            self.resource.normalize(record)
            match = upsert.match(record)
            occur_time = item.occur_time if item.HasField("occur_time") else None
            if match is None:
                made = await self._create(item, record, tx, claimed=True)
                upsert.remember(made)
                return made, Outcome.OUTCOME_CREATED
            check_lock(match, record.etag)
            revision = match.revision
            made = await upsert.merge(match, record, list(item.update_mask.paths), occur_time)
            if self.merge_hook is not None:
                made = await self.merge_hook(item, match, tx)
            return made, Outcome.OUTCOME_UPDATED if match.revision > revision else Outcome.OUTCOME_UNCHANGED

        return await self._each(request, items, tx, one)

    def _items(self, request: Any) -> Any:
        check_size(len(request.requests), "requests")
        for index, item in enumerate(request.requests):
            for name in ("request_id", "validate_only"):
                if name in item.DESCRIPTOR.fields_by_name and getattr(item, name):
                    raise invalid(f"requests[{index}].{name}", "it belongs to the whole batch")
        return request.requests

    async def _each(
        self,
        request: Any,
        items: Iterable[Any],
        tx: Work,
        one: Callable[[Any, int], Awaitable[tuple[Message, int]]],
    ) -> Message:
        """Does the items one by one. A failing item has its status, or fails the call where it is atomic."""
        response = self._response(tx.method)
        for index, item in enumerate(items):
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)  # a batch is work without waiting: others get their turn in between
            result = response.results.add()
            mark = tx.changed
            try:
                with self._placed():
                    record, outcome = await one(item, index)
            except Failure as failure:
                tx.forget_since(mark)
                named = _in_batch(failure, index)
                if request.atomic:
                    raise named from failure
                result.status.CopyFrom(named.status())
            else:
                getattr(result, self.field).CopyFrom(record)
                result.outcome = outcome
        return response  # type: ignore[no-any-return]


def _well_formed(ids: Iterable[str]) -> list[str]:
    """The ids that can be looked up; the others get their error with their item."""
    found = []
    for each in ids:
        try:
            decode(each)
        except ValueError:
            continue
        found.append(each)
    return found


def _locked(resource: Resource[Any], records: dict[str, Record[Any]], record_id: str) -> Record[Any]:
    if record_id not in records:
        raise resource.missing(record_id)
    return records[record_id]


def _in_batch(failure: Failure, index: int) -> Failure:
    """The failure as the batch's caller reads it: with the place of the item."""
    failure.message = f"requests[{index}]: {failure.message}"
    failure.violations = [(f"requests[{index}].{path}", text) for path, text in failure.violations]
    return failure
