"""A reaction that acts, to count what it did: one row for each time an event had its effect.

The table is made by tests.faults.platform.

The shipped services only copy and log; the inbox is for reactions that act, and this one stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy import Column, MetaData, Table, Uuid, bindparam, insert

from chassis.db import Tx
from chassis.events import Change, Effect, on
from tests.faults.books import Books

if TYPE_CHECKING:
    from tests.faults.checks import Findings

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


async def check(books: Books, events: Iterable[UUID], found: Findings) -> None:
    """Every change had its effect once, and nothing else had one."""
    rows = await books.rows(SERVICE, "SELECT event_id, count(*) AS times FROM tally GROUP BY event_id")
    times = {row["event_id"]: row["times"] for row in rows}
    expected = set(events)
    found.doubled += [f"tally: event {each} had its effect {count} times" for each, count in times.items() if count > 1]
    found.projection_diffs += [f"tally: event {each} had no effect" for each in expected - times.keys()]
    found.projection_diffs += [f"tally: event {each} is in no ledger" for each in times.keys() - expected]
