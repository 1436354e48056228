"""``python -m services.marketing.rebuild``: makes the copies of leads and deals again from the ledger of sales.

It may run while the service does, and takes nothing away meanwhile: a copy is written anew where its revision is met.
"""

from __future__ import annotations

import sys
from typing import Final

from chassis.events import reactions_of
from chassis.rebuild import by_tenant, pages
from chassis.run import run_beside
from chassis.service import Platform
from services.marketing import reactions
from services.marketing.__main__ import application

_HOME: Final = "sales"


async def rebuild(platform: Platform) -> int:
    """Reads the ledger to its end; the answer is how many changes were read."""
    read, kept = 0, reactions_of(reactions)
    async for _, changes in pages(platform.channels, application.name, _HOME):
        for tenant, own in by_tenant(changes):
            async with platform.db.write(tenant) as tx:
                for change in own:
                    for reaction in kept:
                        if reaction.matches(change.type):
                            await reaction.handler(change, tx)
        read += len(changes)
    return read


if __name__ == "__main__":
    sys.stdout.write(f"funnel: rebuilt from {run_beside(application, rebuild)} changes\n")
