"""The proposals that an agent may make in a day, counted in the database: exact whatever gateway is asked."""

from __future__ import annotations

import datetime as dt
from typing import Final

from sqlalchemy import bindparam, delete
from sqlalchemy.dialects.postgresql import insert

from chassis.errors import Exhausted, Reason
from chassis.work import Work
from gateway.proposals.tables import budgets

DEFAULT: Final = 100

_SPEND = (
    insert(budgets)
    .values(tenant_id=bindparam("tenant"), principal_id=bindparam("principal"), day=bindparam("day"), used=1)
    .on_conflict_do_update(
        index_elements=[budgets.c.tenant_id, budgets.c.principal_id, budgets.c.day],
        set_={"used": budgets.c.used + 1},
        where=budgets.c.used < bindparam("budget"),
    )
    .returning(budgets.c.used)
)
# The days that are over.
_FORGET = delete(budgets).where(
    budgets.c.tenant_id == bindparam("tenant"),
    budgets.c.principal_id == bindparam("principal"),
    budgets.c.day < bindparam("day"),
)


async def spend(work: Work, principal: str, budget: int) -> None:
    """Counts one proposal. Raises Exhausted, BUDGET_EXHAUSTED, where the day's are used up.

    The row stays locked until the transaction ends: of two at the same time, one waits and sees what the other took.
    """
    now = await work.now()
    day = now.astimezone(dt.UTC).date()
    if rows := await work.rows(_SPEND, {"principal": principal, "day": day, "budget": budget}):
        if rows[0].used == 1:
            await work.execute(_FORGET, {"principal": principal, "day": day})
        return
    tomorrow = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC)
    raise Exhausted(
        Reason.REASON_BUDGET_EXHAUSTED,
        f"the {budget} proposals of this day are used up; the next day begins at {tomorrow:%Y-%m-%dT%H:%M:%SZ}",
        metadata={"budget": str(budget), "reset_time": f"{tomorrow:%Y-%m-%dT%H:%M:%SZ}"},
        retry_s=(tomorrow - now).total_seconds(),
    )
