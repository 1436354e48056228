"""Takes away what the log of reads has kept for long enough."""

from __future__ import annotations

import asyncio
import datetime as dt
from itertools import takewhile
from typing import Final

from sqlalchemy import bindparam, delete, select

from chassis.service import Platform
from gateway.audit.tables import audit_reads

_EVERY_S: Final = 3_600.0
_AT_ONCE: Final = 5_000

# Always the first of a tenant's positions, so that those which stay are without gaps.
_TENANTS = select(audit_reads.c.tenant_id).where(audit_reads.c.time < bindparam("before")).distinct()
_FIRST = (
    select(audit_reads.c.position, audit_reads.c.time)
    .where(audit_reads.c.tenant_id == bindparam("tenant"))
    .order_by(audit_reads.c.position)
    .limit(_AT_ONCE)
)
_SWEEP = delete(audit_reads).where(
    audit_reads.c.tenant_id == bindparam("tenant"), audit_reads.c.position <= bindparam("last")
)


async def sweep_reads(platform: Platform) -> None:
    """Deletes reads that are older than the setting ``read_log_days`` says. Never ends."""
    while True:
        await sweep_once(platform)
        await asyncio.sleep(_EVERY_S)


async def sweep_once(platform: Platform) -> int:
    """Deletes what is too old by now; how many reads those were."""
    before = dt.datetime.now(dt.UTC) - dt.timedelta(days=platform.settings.read_log_days)
    async with platform.db.worker() as connection:
        tenants = await connection.rows(_TENANTS, {"before": before})
    swept = 0
    for tenant in (row.tenant_id for row in tenants):
        deleted = _AT_ONCE
        while deleted == _AT_ONCE:
            async with platform.db.worker() as connection:
                first = await connection.rows(_FIRST, {"tenant": tenant})
                old = list(takewhile(lambda row: row.time < before, first))
                deleted = await connection.execute(_SWEEP, {"tenant": tenant, "last": old[-1].position}) if old else 0
            swept += deleted
    return swept
