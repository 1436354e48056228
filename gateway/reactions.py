"""What the gateway keeps of every change: which webhook endpoints are to be told of it."""

from __future__ import annotations

from chassis.db import Tx
from chassis.events import Change, Effect, on
from gateway.webhooks import log


@on("crm.>", effect=Effect.LOG)
async def enter_deliveries(change: Change, tx: Tx) -> None:
    """Enters the change for every endpoint that hears of it."""
    tx.gather(log.enter, change)
