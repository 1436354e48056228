"""What marketing keeps of other services' records: a lead's way in, and how its deal ended."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from sqlalchemy import Table, bindparam
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import Executable

from chassis.db import Tx
from chassis.events import Change, Effect, on
from chassis.rows import moment, uuid_of
from services.marketing.tables import deal_view, lead_view


def _keep_newest(view: Table) -> Executable:
    """Writes a copy of a record unless a later revision is there: events come twice and out of order.

    The same revision is written again: what a copy has got to hold since is filled in so (rebuild.py).
    """
    kept = [column.name for column in view.c if column.name != "tenant_id"]
    row = insert(view).values(tenant_id=bindparam("tenant"), **{name: bindparam(f"v_{name}") for name in kept})
    return row.on_conflict_do_update(
        index_elements=[view.c.tenant_id, view.c.id],
        set_={name: row.excluded[name] for name in kept if name != "id"},
        where=row.excluded.revision >= view.c.revision,
    )


_KEEP_LEAD = _keep_newest(lead_view)
_KEEP_DEAL = _keep_newest(deal_view)

Row = dict[str, Any]


@on("crm.sales.v1.Lead.*", effect=Effect.STATE)
async def keep_lead(change: Change, tx: Tx) -> None:
    """Keeps where a lead came from and how far it came, as the change left it."""
    if (lead := change.after) is None:
        return
    row = {
        "v_id": change.entity_uuid,
        "v_revision": change.revision,
        "v_source": _optional(lead, "source"),
        "v_landing_page": _optional(lead, "landing_page"),
        "v_campaign_id": uuid_of(lead.campaign_id) if lead.campaign_id else None,
        "v_owner_id": uuid_of(lead.owner_id) if lead.owner_id else None,
        "v_status": lead.status,
        "v_open_time": _time(lead, "open_time"),
        "v_convert_time": _time(lead, "convert_time"),
        "v_deleted": lead.HasField("delete_time"),
    }
    tx.gather(_write_leads, row)


@on("crm.sales.v1.Deal.*", effect=Effect.STATE)
async def keep_deal(change: Change, tx: Tx) -> None:
    """Keeps which lead a deal came from, whose it is and how it stands, as the change left it."""
    if (deal := change.after) is None:
        return
    row = {
        "v_id": change.entity_uuid,
        "v_revision": change.revision,
        "v_lead_id": uuid_of(deal.lead_id) if deal.lead_id else None,
        "v_owner_id": uuid_of(deal.owner_id) if deal.owner_id else None,
        "v_state": deal.state,
        "v_close_time": _time(deal, "close_time"),
        "v_deleted": deal.HasField("delete_time"),
    }
    tx.gather(_write_deals, row)


async def _write_leads(rows: list[Row], tx: Tx) -> None:
    await tx.execute_many(_KEEP_LEAD, _in_order(rows))


async def _write_deals(rows: list[Row], tx: Tx) -> None:
    await tx.execute_many(_KEEP_DEAL, _in_order(rows))


def _in_order(rows: list[Row]) -> list[Row]:
    """By id, so that two consumers with the same records wait for each other instead of locking up."""
    return sorted(rows, key=itemgetter("v_id"))


def _optional(record: Any, name: str) -> Any:
    """The field's value, or None where it is not set: not said and empty are two things."""
    return getattr(record, name) if record.HasField(name) else None


def _time(record: Any, name: str) -> Any:
    return moment(getattr(record, name)) if record.HasField(name) else None
