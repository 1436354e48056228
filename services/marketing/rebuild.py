"""``python -m services.marketing.rebuild``: makes the copies of leads and deals again from the ledger of sales.

It may run while the service does, and takes nothing away meanwhile: a copy is written anew where its revision is met.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from chassis.clients import Channels
from chassis.db import Database
from chassis.events import reactions_of
from chassis.rebuild import by_tenant, pages
from chassis.run import platform_of
from chassis.settings import Settings
from services.marketing import reactions
from services.marketing.__main__ import application

_HOME: Final = "sales"


async def rebuild(db: Database, channels: Channels) -> int:
    """Reads the ledger to its end; the answer is how many changes were read."""
    read, kept = 0, reactions_of(reactions)
    async for _, changes in pages(channels, application.name, _HOME):
        for tenant, own in by_tenant(changes):
            async with db.write(tenant) as tx:
                for change in own:
                    for reaction in kept:
                        if reaction.matches(change.type):
                            await reaction.handler(change, tx)
        read += len(changes)
    return read


async def main() -> None:
    """Rebuilds with the settings of the service's process."""
    platform = platform_of(application, Settings())  # type: ignore[call-arg]
    try:
        read = await rebuild(platform.db, platform.channels)
    finally:
        await platform.channels.close()
        await platform.db.close()
    sys.stdout.write(f"funnel: rebuilt from {read} changes\n")


if __name__ == "__main__":
    asyncio.run(main())
