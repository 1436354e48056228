"""``python -m services.activities.rebuild``: makes the timeline again from every service's ledger.

It may run while the service does. A tenant's timeline is incomplete from when its first change is met until the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from itertools import groupby
from typing import Final
from uuid import UUID

from crm.internal.v1 import ledger_pb2 as pb
from sqlalchemy import bindparam, delete, select, tuple_

from chassis import contract
from chassis.change import Change
from chassis.clients import Channels, service_caller
from chassis.db import Database
from chassis.errors import Exhausted
from chassis.run import platform_of
from chassis.settings import Settings
from services.activities import projection
from services.activities.__main__ import application
from services.activities.tables import entity_owner, entity_subject, entry_subject, timeline_entries

_READ: Final = "/crm.internal.v1.LedgerService/ReadChanges"
_NO_TENANT: Final = UUID(int=0)
_PAGE: Final = 1_000
_DELETED_AT_ONCE: Final = 5_000
_LIMIT_S: Final = 30.0


class Rebuild:
    """One rebuild: where it stands in each ledger, and whose old timelines are gone already.

    ``homes`` are the kinds of processes whose ledgers are read.
    """

    def __init__(self, db: Database, channels: Channels, homes: Iterable[str]) -> None:
        self._db = db
        self._channels = channels
        self._positions = dict.fromkeys(homes, 0)
        self._emptied: set[UUID] = set()

    async def run(self) -> int:
        """Reads every ledger to its end; the answer is how many changes were read.

        A change that was consumed meanwhile, before its tenant was emptied on account of another ledger, lies after
        the position reached: the second reading brings it back.
        """
        read = await self._read_ledgers(empty=True)
        return read + await self._read_ledgers(empty=False)

    async def _read_ledgers(self, *, empty: bool) -> int:
        read = 0
        for home in self._positions:
            async for changes in self._pages(home):
                for tenant, group in groupby(sorted(changes, key=_tenant), key=_tenant):
                    if empty and tenant not in self._emptied:
                        await self._empty(tenant)
                    async with self._db.write(tenant) as tx:
                        await projection.add(list(group), tx)
                read += len(changes)
        return read

    async def _pages(self, home: str) -> AsyncIterator[list[Change]]:
        limit = _PAGE
        while True:
            request = pb.ReadChangesRequest(after_position=self._positions[home], limit=limit, all_tenants=True)
            try:
                answer = await self._channels.call(
                    _READ,
                    request,
                    pb.ReadChangesResponse.FromString,
                    kind=home,
                    caller=service_caller(application.name, _NO_TENANT),
                    timeout_s=_LIMIT_S,
                )
            except Exhausted:
                if limit == 1:
                    raise
                limit //= 2  # these records are large
                continue
            if answer.changes:
                yield [Change(home, each.position, UUID(each.tenant_id), each.change) for each in answer.changes]
            self._positions[home] = answer.position
            if answer.position >= answer.last_position:
                return

    async def _empty(self, tenant: UUID) -> None:
        self._emptied.add(tenant)
        for table in (entity_owner, entity_subject, timeline_entries, entry_subject):
            key = tuple_(*table.primary_key.columns)
            mine = table.c.tenant_id == bindparam("tenant")
            some = select(*table.primary_key.columns).where(mine).limit(_DELETED_AT_ONCE)
            statement = delete(table).where(mine, key.in_(some))
            deleted = 1
            while deleted:
                async with self._db.write(tenant) as tx:
                    deleted = await tx.execute(statement)


def _tenant(change: Change) -> UUID:
    return change.tenant


async def main() -> None:
    """Rebuilds with the settings of the service's process."""
    platform = platform_of(application, Settings())  # type: ignore[call-arg]
    homes = sorted({each.home for each in contract.load().resources.values()})
    try:
        read = await Rebuild(platform.db, platform.channels, homes).run()
    finally:
        await platform.channels.close()
        await platform.db.close()
    sys.stdout.write(f"timeline: rebuilt from {read} changes\n")


if __name__ == "__main__":
    asyncio.run(main())
