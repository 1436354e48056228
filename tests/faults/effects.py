"""The projections held against the ledgers they are made of, and against their rebuilds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from crm.sales.v1 import deal_pb2, lead_pb2

from chassis import ids
from chassis.rows import moment
from deploy.local import control
from deploy.local.state import State
from tests.faults.books import Books, Entry

if TYPE_CHECKING:
    from tests.faults.checks import Findings

SHOWN: Final = 5
_TIMELINE: Final = ("timeline_entries", "entry_subject", "entity_subject")


@dataclass(frozen=True, slots=True)
class Event:
    """A change, as the timeline must hold it."""

    tenant: UUID
    service: str
    entity: str
    type: str
    position: int | None


def note(service: str, entries: list[Entry], events: dict[UUID, Event]) -> None:
    """Takes note of a ledger's events."""
    for each in entries:
        events[each.event_id] = Event(each.tenant, service, each.entity, each.type, each.position)


async def check_timeline(books: Books, events: dict[UUID, Event], found: Findings) -> None:
    """Every change is on the timeline once, where its ledger has it, and nothing else is; and on its own record's."""
    statement = "SELECT event_id, tenant_id, service, entity_id, type, position FROM timeline_entries"
    there: dict[UUID, Event] = {}
    for row in await books.rows("activities", statement):
        if row["event_id"] in there:
            found.doubled.append(f"timeline: event {row['event_id']} stands there twice")
        there[row["event_id"]] = Event(row["tenant_id"], row["service"], row["entity_id"], row["type"], row["position"])
    missing, strange = events.keys() - there.keys(), there.keys() - events.keys()
    found.projection_diffs += [f"timeline: {events[each].type} {each} is missing" for each in missing]
    found.projection_diffs += [f"timeline: {there[each].type} {each} is in no ledger" for each in strange]
    found.projection_diffs += [
        f"timeline: {there[each]} is {events[each]} in the ledger"
        for each in events.keys() & there.keys()
        if events[each] != there[each]
    ]
    nowhere = """
        SELECT event_id FROM timeline_entries e WHERE NOT EXISTS (
            SELECT FROM entry_subject s
            WHERE s.tenant_id = e.tenant_id AND s.subject_id = e.entity_id AND s.event_id = e.event_id
        )
    """
    found.projection_diffs += [
        f"timeline: {row[0]} is not on its own record's timeline" for row in await books.rows("activities", nowhere)
    ]
    twice = (
        "SELECT subject_id, event_id FROM entry_subject GROUP BY tenant_id, subject_id, event_id HAVING count(*) > 1"
    )
    found.doubled += [f"timeline: {row[1]} stands on {row[0]} twice" for row in await books.rows("activities", twice)]


async def check_views(books: Books, entries: list[Entry], tenants: list[UUID], found: Findings) -> None:
    """Marketing's copies of leads and deals are what the last revision of each says."""
    last = {(each.tenant, each.entity): each for each in entries}
    for view, prefix, expected in (("lead_view", "lead", _lead_view), ("deal_view", "deal", _deal_view)):
        there = {
            (row["tenant_id"], ids.encode(prefix, row["id"])): dict(row)
            for row in await books.rows("marketing", f"SELECT * FROM {view} WHERE tenant_id = ANY($1)", tenants)
        }
        wanted = {key: each for key, each in last.items() if each.entity.startswith(f"{prefix}_")}
        found.projection_diffs += [f"{view}: {key[1]} is missing" for key in wanted.keys() - there.keys()]
        found.projection_diffs += [f"{view}: {key[1]} is in no ledger" for key in there.keys() - wanted.keys()]
        for key in wanted.keys() & there.keys():
            want = {**expected(wanted[key].after), "revision": wanted[key].revision}
            differs = {name: (there[key][name], value) for name, value in want.items() if there[key][name] != value}
            if differs:
                found.projection_diffs.append(f"{view}: {key[1]} differs (has, should have): {differs}")


def _lead_view(body: bytes) -> dict[str, Any]:
    lead = lead_pb2.Lead.FromString(body)
    return {
        "source": lead.source if lead.HasField("source") else None,
        "landing_page": lead.landing_page if lead.HasField("landing_page") else None,
        "campaign_id": ids.decode(lead.campaign_id)[1] if lead.campaign_id else None,
        "owner_id": ids.decode(lead.owner_id)[1] if lead.owner_id else None,
        "status": lead.status,
        "open_time": moment(lead.open_time) if lead.HasField("open_time") else None,
        "convert_time": moment(lead.convert_time) if lead.HasField("convert_time") else None,
        "deleted": lead.HasField("delete_time"),
    }


def _deal_view(body: bytes) -> dict[str, Any]:
    deal = deal_pb2.Deal.FromString(body)
    return {
        "lead_id": ids.decode(deal.lead_id)[1] if deal.lead_id else None,
        "owner_id": ids.decode(deal.owner_id)[1] if deal.owner_id else None,
        "state": deal.state,
        "close_time": moment(deal.close_time) if deal.HasField("close_time") else None,
        "deleted": deal.HasField("delete_time"),
    }


def rebuilt_otherwise(state: State, books: Books) -> list[str]:
    """Keeps the timeline aside, has it made again from the ledgers, and says where both differ."""
    asyncio.run(_keep_aside(books))
    if (code := control.rebuild(state, "timeline")) != 0:
        return [f"timeline: its rebuild ended with {code}"]
    return asyncio.run(_compare(books))


async def _keep_aside(books: Books) -> None:
    async with books.open("activities") as connection:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS before")
        for table in _TIMELINE:
            await connection.execute(f"DROP TABLE IF EXISTS before.{table}")
            await connection.execute(f"CREATE TABLE before.{table} AS SELECT * FROM public.{table}")


async def _compare(books: Books) -> list[str]:
    found = []
    async with books.open("activities") as connection:
        for table in _TIMELINE:
            for what, one, other in (("built alone", "before", "public"), ("rebuilt alone", "public", "before")):
                rows = await connection.fetch(f"SELECT * FROM {one}.{table} EXCEPT ALL SELECT * FROM {other}.{table}")
                found += [f"{table}: {what}: {dict(row)!s:.300}" for row in rows]
        await connection.execute("DROP SCHEMA before CASCADE")
    return found
