"""``python -m services.activities.rebuild``: makes the timeline again from every service's ledger.

It may run while the service does. A tenant's timeline is incomplete from when its first change is met until the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from sqlalchemy import bindparam, delete, select, tuple_

from chassis import contract
from chassis.clients import Channels
from chassis.db import Database
from chassis.rebuild import by_tenant, pages
from chassis.run import run_beside
from chassis.service import Platform
from services.activities import projection
from services.activities.__main__ import application
from services.activities.tables import entity_owner, entity_subject, entry_subject, timeline_entries

_DELETED_AT_ONCE: Final = 5_000


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
            async for position, changes in pages(self._channels, application.name, home, self._positions[home]):
                for tenant, own in by_tenant(changes):
                    if empty and tenant not in self._emptied:
                        await self._empty(tenant)
                    async with self._db.write(tenant) as tx:
                        await projection.add(own, tx)
                read += len(changes)
                self._positions[home] = position
        return read

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


async def rebuild(platform: Platform) -> int:
    """Rebuilds from the ledgers of all services; the answer is how many changes were read."""
    homes = sorted({each.home for each in contract.load().resources.values()})
    return await Rebuild(platform.db, platform.channels, homes).run()


if __name__ == "__main__":
    sys.stdout.write(f"timeline: rebuilt from {run_beside(application, rebuild)} changes\n")
