"""Replays of ranges of time: ledgers are read again, page by page, and what they hold is entered for one endpoint."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final
from uuid import UUID

from sqlalchemy import bindparam, delete, func, select, update

from chassis import telemetry
from chassis.db import Database
from chassis.errors import Failure
from chassis.sql import Row
from gateway.live.ledgers import Ledgers, Page
from gateway.webhooks import log as deliveries
from gateway.webhooks.tables import replays

_LEASE: Final = dt.timedelta(seconds=30)
# Positions of a ledger follow its commits, but for transactions that took long.
_SLACK: Final = dt.timedelta(seconds=30)
_AT_ONCE: Final = 16

log = telemetry.logger()

_DUE = select(replays.c.tenant_id, replays.c.id).where(replays.c.lease_time <= func.now()).limit(_AT_ONCE)
_THIS = (replays.c.tenant_id == bindparam("tenant"), replays.c.id == bindparam("replay"))
_TAKE = select(replays).where(*_THIS, replays.c.lease_time <= bindparam("at")).with_for_update(skip_locked=True)
_HOLD = update(replays).where(*_THIS).values(lease_time=bindparam("until"))
_ADVANCE = update(replays).where(*_THIS).values(positions=bindparam("places"), lease_time=func.now())
_END = delete(replays).where(*_THIS)


class Replays:
    """Carries on, a page at a time, the replays that are under way."""

    def __init__(self, db: Database, ledgers: Ledgers) -> None:
        self._db = db
        self._ledgers = ledgers

    async def step(self) -> None:
        """Reads a page for each replay that nobody else is at."""
        due = [(row.tenant_id, row.id) for row in await self._db.due(_DUE)]
        for tenant, replay in due:
            try:
                await self._step(tenant, replay)
            except Failure as failure:
                log.info("a replay waits", replay=str(replay), exc_info=failure)

    async def _step(self, tenant: UUID, replay: UUID) -> None:
        async with self._db.write(tenant) as tx:
            now = await tx.now()
            found = await tx.rows(_TAKE, {"replay": replay, "at": now})
            if not found:
                return
            await tx.execute(_HOLD, {"replay": replay, "until": now + _LEASE})
        row = found[0]
        places: dict[str, int] = dict(row.positions)
        ledger = next(iter(places), None)
        page = await self._read(tenant, row, ledger, places[ledger]) if ledger is not None else None
        async with self._db.write(tenant) as tx:
            listener = await _listener(tx, row.endpoint_id)
            if page is None or ledger is None or listener is None:
                await tx.execute(_END, {"replay": replay})
                return
            changes = [each for each in page.changes if row.start_time <= each.commit_time < row.end_time]
            await deliveries.enter_again(listener, changes, tx, undelivered_only=row.undelivered_only)
            places[ledger] = page.position
            past = page.changes and page.changes[-1].commit_time > row.end_time + _SLACK
            if past or page.position >= page.last_position:
                del places[ledger]
            await tx.execute(_ADVANCE, {"replay": replay, "places": places})

    async def _read(self, tenant: UUID, row: Row, ledger: str, place: int) -> Page:
        after: Any = row.start_time if place < 0 else place
        return await self._ledgers.read(ledger, after, tenant=tenant)


async def _listener(tx: Any, endpoint: UUID) -> deliveries.Listener | None:
    """The endpoint, where it is still sent to."""
    found = await tx.rows(deliveries.LISTENING)
    return next((deliveries.Listener(each) for each in found if each.id == endpoint), None)
