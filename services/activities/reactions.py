"""What activities does with events: it puts each on the timelines of the records it concerns."""

from __future__ import annotations

from chassis.change import Change
from chassis.db import Tx
from chassis.events import Effect, on
from services.activities import projection


@on("crm.>", effect=Effect.LOG)
async def add_to_timeline(change: Change, tx: Tx) -> None:
    """Adds the change to the timeline; once, however often and in whatever order it comes."""
    tx.gather(projection.add, change)
