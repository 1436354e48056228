"""What the gateway itself writes in a tenant, whoever's call is the occasion."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from chassis import context
from chassis.clients import service_caller
from chassis.context import Call
from chassis.db import Database
from chassis.work import Work

_DEADLINE_S: Final = 10.0


@asynccontextmanager
async def own_work(db: Database, tenant: UUID) -> AsyncIterator[Work]:
    """A unit of work of the gateway's own. What it holds is written where the block ends without an error."""
    with context.enter(Call(service_caller("gateway", tenant), "", time.monotonic() + _DEADLINE_S)):
        async with db.write(tenant) as tx:
            work = Work(tx)
            yield work
            await work.flush()
