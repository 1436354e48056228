"""The ledger read in the order of its positions: what every service lets the others do."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from crm.internal.v1 import ledger_pb2 as pb
from sqlalchemy import bindparam, func, select

from chassis import context
from chassis.change import message_of
from chassis.errors import Denied, Reason
from chassis.rows import moment
from chassis.service import Service
from chassis.work import View

DEFAULT_LIMIT = 500
MAX_LIMIT = 1_000
# How often a call that waits for the relay looks.
_LOOK_S = 0.02


class Ledger(Service, serves="crm.internal.v1.LedgerService"):
    """Reads this service's ledger for rebuilds and for subscribers that resume."""

    async def ReadChanges(self, request: pb.ReadChangesRequest, tx: View) -> pb.ReadChangesResponse:
        """Reads changes after a position, of the caller's tenant or of all."""
        if not request.all_tenants:
            if request.settled:
                await _settled(tx)
            return await _read(tx.rows, tx, request, tx.tenant)
        if not context.current().caller.principal.startswith("service:"):
            raise Denied(Reason.REASON_PERMISSION_DENIED, "only a service reads every tenant's changes")
        async with self.platform.db.worker() as connection:
            return await _read(connection.rows, tx, request, None)


async def _settled(tx: View) -> None:
    """Returns when all that the tenant had committed has its position; until then, as long as the call may last."""
    ledger = tx.schema.ledger
    unnumbered = ledger.c.tenant_id == bindparam("tenant"), ledger.c.position.is_(None)
    last = (await tx.rows(select(func.max(ledger.c.id).label("id")).where(*unnumbered)))[0].id
    waiting = select(ledger.c.id).where(*unnumbered, ledger.c.id <= bindparam("last")).limit(1)
    while last is not None and await tx.rows(waiting, {"last": last}):
        await asyncio.sleep(_LOOK_S)


async def _read(rows: Any, tx: View, request: pb.ReadChangesRequest, tenant: UUID | None) -> pb.ReadChangesResponse:
    ledger, relay = tx.schema.ledger, tx.schema.relay
    limit = min(request.limit or DEFAULT_LIMIT, MAX_LIMIT)
    # Read first: whatever gets a position later is none of this answer.
    last = (await rows(select(relay.c.last_position)))[0].last_position
    mine = [ledger.c.tenant_id == bindparam("tenant", tenant)] if tenant is not None else []
    if request.actor:
        mine.append(ledger.c.actor == bindparam("actor", request.actor))
    after = request.after_position
    if request.HasField("start_time"):
        found = await rows(
            select(func.min(ledger.c.position).label("first")).where(
                *mine, ledger.c.commit_time >= bindparam("start", moment(request.start_time))
            )
        )
        after = last if found[0].first is None else found[0].first - 1
    # What lies beyond the last position is left out here: as a second bound it would have a plan for all parameters
    # expect so few rows that it reads and sorts all that follow.
    found = await rows(
        select(ledger)
        .where(*mine, ledger.c.position > bindparam("after", after))
        .order_by(ledger.c.position)
        .limit(limit)
    )
    found = [row for row in found if row.position <= last]
    response = pb.ReadChangesResponse(
        position=found[-1].position if len(found) == limit else max(last, after), last_position=last
    )
    for row in found:
        response.changes.add(position=row.position, tenant_id=str(row.tenant_id), change=message_of(row))
    return response
