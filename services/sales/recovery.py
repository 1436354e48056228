"""Recovery: finishes the conversions that a crash, or an absence of contacts, left half-way."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from dataclasses import replace
from typing import Final
from uuid import UUID

from sqlalchemy import bindparam, func, select, update

from chassis import context, contract, telemetry
from chassis.context import Call, new_request_id
from chassis.errors import Failure
from chassis.service import Platform, idempotency_key
from services.sales.conversions import PATH, THIS_ROW, UNDOING, Conversion, actor, carry_on, conversion_of, restore
from services.sales.tables import conversions

log = telemetry.logger()

_POLL_S: Final = 1.0
_ATTEMPT_S: Final = 20.0
_CLAIMED_AT_ONCE: Final = 20

_DUE_TENANTS = select(conversions.c.tenant_id).where(conversions.c.due_time <= func.now()).distinct()
_DUE = (
    select(conversions)
    .where(conversions.c.tenant_id == bindparam("tenant"), conversions.c.due_time <= bindparam("now"))
    .order_by(conversions.c.due_time)
    .limit(_CLAIMED_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_CLAIM = update(conversions).where(*THIS_ROW).values(due_time=bindparam("due"), attempts=bindparam("attempt"))


async def recovery(platform: Platform) -> None:
    """Finishes, for ever, the conversions that were left half-way, in every tenant."""
    while True:
        for tenant in await _due_tenants(platform):
            for conversion in await _claim(platform, tenant):
                await recover(platform, tenant, conversion)
        await asyncio.sleep(_POLL_S)


async def _due_tenants(platform: Platform) -> list[UUID]:
    return [row.tenant_id for row in await platform.db.due(_DUE_TENANTS)]


async def _claim(platform: Platform, tenant: UUID) -> list[Conversion]:
    """Takes up what is due in a tenant and is not in another replica's hands."""
    async with platform.db.write(tenant) as tx:
        now = await tx.now()
        claimed = [conversion_of(row) for row in await tx.rows(_DUE, {"now": now})]
        for each in claimed:
            lease = {"due": now + dt.timedelta(seconds=_ATTEMPT_S), "attempt": each.attempts + 1}
            await tx.execute(_CLAIM, {**each.names(), **lease})
    return [replace(each, attempts=each.attempts + 1) for each in claimed]


async def recover(platform: Platform, tenant: UUID, conversion: Conversion) -> None:
    """Goes on with a conversion as its principal, or takes it back where it was refused."""
    call = Call(actor(tenant, conversion.principal), PATH, time.monotonic() + _ATTEMPT_S, new_request_id())
    with (
        context.enter(call),
        telemetry.span("recover conversion", parent=conversion.trace_context or None) as span,
    ):
        try:
            if conversion.step == UNDOING:
                await restore(platform, conversion)
            else:
                key = idempotency_key(conversion.request, contract.load().methods[PATH], call)
                await carry_on(platform, conversion, key)
        except Failure as failure:
            telemetry.fail(span, failure)
            log.info("a conversion was not finished", reason=failure.reason_name)
        except Exception as error:
            # It must not keep the others waiting; each attempt of it waits longer.
            telemetry.fail(span, error)
            log.error("a conversion failed", conversion=str(conversion.id), exc_info=error)
