"""Finding the record that an item of a batch means, by its natural keys, safely beside other writers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis import context, contract, masks
from chassis.errors import Aborted, Failure, Precondition, Reason
from chassis.keys import Key, claim
from chassis.resource import Record, Resource
from chassis.work import Work, key_taken


class Upsert:
    """The keys of a batch, claimed once for all its items, and the records that hold them."""

    def __init__(self, resource: Resource[Any], work: Work) -> None:
        self._resource = resource
        self._work = work
        self._holders: dict[tuple[str, str], list[UUID]] = {}
        self._records: dict[str, Record[Any]] = {}

    async def claim(self, records: Sequence[Any], *, exclusive_only: bool = False) -> None:
        """Locks the keys of all records, in one order for every writer, and reads who holds them.

        With ``exclusive_only`` those that name at most one record: for records that are not to match others.
        """
        keys: list[Key] = []
        for record in records:
            try:
                self._resource.normalize(record)
            except Failure:
                # The item itself is answered with this, when its turn comes.
                continue
            keys += (key for key in self._resource.keys(record) if key.exclusive or not exclusive_only)
        for key, holders in (await claim(self._work, self._resource.kind.prefix, list(dict.fromkeys(keys)))).items():
            self._holders[key.kind, key.value] = holders

    async def lock_matches(self) -> None:
        """Locks every record that holds one of the keys."""
        held = {self._resource.id_of(each) for holders in self._holders.values() for each in holders}
        self._records = await self._work.lock_many(self._resource, held)

    def match(self, record: Any) -> Record[Any] | None:
        """The one record that ``record`` means, or None where it is new.

        An exclusive key decides; else the others must agree. Raises Precondition, AMBIGUOUS_KEY, where several match,
        and AlreadyExists, KEY_TAKEN, where the one that matches is not for the caller to see.
        """
        keys = self._resource.keys(record)
        found = self._held(key for key in keys if key.exclusive) or self._held(keys)
        names = [self._resource.id_of(each) for each in sorted(found)]
        if any(each not in self._records for each in names):
            raise key_taken(self._resource, next(key for key in keys if self._held([key])))
        if len(names) > 1:
            raise Precondition(
                Reason.REASON_AMBIGUOUS_KEY,
                f"the keys match {len(names)} records: {', '.join(names)}; name one by an external id",
                metadata={"ids": ",".join(names)},
            )
        return self._records[names[0]] if names else None

    def _held(self, keys: Iterable[Key]) -> set[UUID]:
        return {each for key in keys for each in self._holders.get((key.kind, key.value), ())}

    async def refuse_taken(self, record: Any) -> None:
        """Raises AlreadyExists, KEY_TAKEN, where a record holds an exclusive key of ``record``."""
        for key in self._resource.keys(record):
            if key.exclusive and (holders := self._holders.get((key.kind, key.value))):
                raise await self._work.taken(self._resource, key, holders[0])

    def remember(self, made: Any) -> None:
        """Takes a record that the batch made, so that a later item of the batch finds it."""
        uuid = self._resource.uuid(made.id)
        if made.id not in self._records:
            self._records[made.id] = self._work.record_of(self._resource, made)
        self._hold(uuid, self._resource.keys(made))

    def remember_exclusive(self, made: Any) -> None:
        """Takes a record that the batch made, so that no later item of the batch may have one of its exclusive keys."""
        if exclusive := [key for key in self._resource.keys(made) if key.exclusive]:
            self._hold(self._resource.uuid(made.id), exclusive)

    def _hold(self, uuid: UUID, keys: Iterable[Key]) -> None:
        for key in keys:
            holders = self._holders.setdefault((key.kind, key.value), [])
            if uuid not in holders:
                holders.append(uuid)

    async def merge(
        self, match: Record[Any], record: Any, paths: list[str], occur_time: Timestamp | dt.datetime | None
    ) -> Message:
        """Changes a matched record to what ``record`` says; external ids are added, not replaced."""
        match.after.CopyFrom(match.before)  # an earlier item of the batch may have failed half-way
        known = [(each.system, each.id) for each in match.after.external_ids]
        added = [each for each in record.external_ids if (each.system, each.id) not in known]
        if added:
            masks.check_field("external_ids", context.fields(contract.descriptor_of(record)))
        paths = [path for path in paths or masks.present(record) if path != "external_ids"]
        masks.apply(match.after, record, paths)
        match.after.external_ids.extend(added)
        for key in self._resource.keys(match.after):
            others = [each for each in self._holders.get((key.kind, key.value), ()) if key.exclusive]
            if others and self._resource.id_of(others[0]) != match.before.id:
                raise Aborted(Reason.REASON_KEY_TAKEN, f"another record holds this {key.kind}")
        made: Message = await self._work.update(match, occur_time=occur_time, claimed=True)
        self.remember(made)
        return made
