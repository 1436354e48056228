"""A reaction that acts, to count what it did: one row for each time an event had its effect.

The table is made by tests.faults.platform.

The shipped services only copy and log; the inbox is for reactions that act, and this one stands for them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from sqlalchemy import Column, MetaData, Table, Uuid, bindparam, insert

from chassis.db import Tx
from chassis.events import Change, Effect, on

# The service whose consumer gets every event.
SERVICE: Final = "activities"
TABLE: Final = Table("tally", MetaData(), Column("tenant_id", Uuid), Column("event_id", Uuid))
_COUNT: Final = insert(TABLE).values(tenant_id=bindparam("tenant"), event_id=bindparam("event"))


@on("crm.>", effect=Effect.ACT)
async def tally(change: Change, tx: Tx) -> None:
    """Counts an event."""
    await tx.execute(_COUNT, {"event": change.event_id})


def install(reactions: ModuleType) -> None:
    """Adds the reaction to a service's own."""
    reactions.tally = tally  # type: ignore[attr-defined]
