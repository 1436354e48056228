"""The copies of other services' records: how events write them."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from sqlalchemy import Table, Uuid, bindparam, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.sql import Executable

from chassis.db import Tx
from services.marketing.tables import deal_view, lead_view

Row = dict[str, Any]


def _keep_newest(view: Table) -> Executable:
    """Writes copies of records unless a later revision is there: events come twice and out of order.

    The same revision is written again: what a copy has got to hold since is filled in so (rebuild.py). The copies
    come as one array a column, each record once, so that a group of events is one statement.
    """
    kept = [column for column in view.c if column.name != "tenant_id"]
    new = select(*(func.unnest(bindparam(f"v_{each.name}", type_=ARRAY(each.type))).label(each.name) for each in kept))
    tenant = bindparam("tenant", type_=Uuid())
    rows = insert(view).from_select(["tenant_id", *(each.name for each in kept)], select(tenant, *new.subquery().c))
    newest = rows.on_conflict_do_update(
        index_elements=[view.c.tenant_id, view.c.id],
        set_={each.name: rows.excluded[each.name] for each in kept if each.name != "id"},
        where=rows.excluded.revision >= view.c.revision,
    )
    return select(literal_column("0")).add_cte(newest.returning(literal_column("1").label("one")).cte("kept"))


_KEEP_LEAD = _keep_newest(lead_view)
_KEEP_DEAL = _keep_newest(deal_view)


async def write_leads(rows: list[Row], tx: Tx) -> None:
    """Keeps leads as these rows have them, each column under ``v_`` and its name."""
    await tx.rows_alone(_KEEP_LEAD, _arrays(rows), writes=True)


async def write_deals(rows: list[Row], tx: Tx) -> None:
    """Keeps deals so."""
    await tx.rows_alone(_KEEP_DEAL, _arrays(rows), writes=True)


def _arrays(rows: list[Row]) -> dict[str, list[Any]]:
    """The newest of each record as one list a column.

    By id, so that two consumers with the same records wait for each other instead of locking up.
    """
    newest = {row["v_id"]: row for row in sorted(rows, key=itemgetter("v_id", "v_revision"))}
    return {name: [row[name] for row in newest.values()] for name in rows[0]}
