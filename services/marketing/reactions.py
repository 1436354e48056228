"""What marketing keeps of other services' records: a lead's way in, and how its deal ended."""

from __future__ import annotations

from typing import Any

from chassis.db import Tx
from chassis.events import Change, Effect, on
from chassis.rows import moment, uuid_of
from services.marketing.copies import write_deals, write_leads


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
    tx.gather(write_leads, row)


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
    tx.gather(write_deals, row)


def _optional(record: Any, name: str) -> Any:
    """The field's value, or None where it is not set: not said and empty are two things."""
    return getattr(record, name) if record.HasField(name) else None


def _time(record: Any, name: str) -> Any:
    return moment(getattr(record, name)) if record.HasField(name) else None
