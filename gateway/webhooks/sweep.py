"""Takes away old deliveries."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Final

from sqlalchemy import bindparam, delete, select, tuple_

from chassis.service import Platform
from gateway.webhooks.tables import deliveries

KEPT: Final = dt.timedelta(days=30)
_EVERY_S: Final = 3_600.0
_AT_ONCE: Final = 5_000

_KEY: Final = (deliveries.c.tenant_id, deliveries.c.endpoint_id, deliveries.c.event_id)
_OLD = select(*_KEY).where(deliveries.c.begin_time < bindparam("before")).limit(_AT_ONCE)
_SWEEP = delete(deliveries).where(tuple_(*_KEY).in_(_OLD))


async def sweep_deliveries(platform: Platform) -> None:
    """Deletes deliveries that began 30 days ago, for ever."""
    while True:
        swept = _AT_ONCE
        while swept == _AT_ONCE:
            async with platform.db.worker() as connection:
                swept = await connection.execute(_SWEEP, {"before": dt.datetime.now(dt.UTC) - KEPT})
        await asyncio.sleep(_EVERY_S)
