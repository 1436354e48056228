"""Takes away the answers that were kept for repeated calls, once they are too old to be asked for."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import bindparam, delete, func, select, tuple_

from chassis.service import Platform

# Often enough that a table of answers holds about a day of them.
_EVERY_S: Final = 600.0
_AT_ONCE: Final = 1_000


async def sweep_idempotency(platform: Platform) -> None:
    """Deletes expired answers, one tenant at a time and a thousand at once. Never ends."""
    while True:
        await sweep_once(platform)
        await asyncio.sleep(_EVERY_S)


async def sweep_once(platform: Platform) -> int:
    """Deletes what has expired by now; how many answers those were."""
    table = platform.db.schema.idempotency
    expired = table.c.expire_time <= func.now()
    swept = 0
    async with platform.db.worker() as connection:
        rows = await connection.rows(select(table.c.tenant_id).where(expired).distinct())
    keys = (table.c.tenant_id, table.c.principal_id, table.c.method, table.c.request_id)
    due = select(*keys).where(table.c.tenant_id == bindparam("tenant"), expired).limit(_AT_ONCE)
    batch = delete(table).where(table.c.tenant_id == bindparam("tenant"), tuple_(*keys).in_(due), expired)
    for tenant in (row.tenant_id for row in rows):
        deleted = _AT_ONCE
        while deleted == _AT_ONCE:
            async with platform.db.worker() as connection:
                deleted = await connection.execute(batch, {"tenant": tenant})
            swept += deleted
    return swept
