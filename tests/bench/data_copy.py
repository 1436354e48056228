"""Writes invented records straight into the services' databases, as if they had been imported and published.

Each record has its row, its natural keys, one ledger row and its place in the projections. The ledger rows get the
next positions, and the relay's mark moves over them in the same transaction: no event is published, positions stay
without gaps, and rebuilds and resuming subscribers find the records in the ledger as they find any others.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import asyncpg
from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import JSONB

from chassis.change import Change, message_of
from chassis.db import Schema
from chassis.search.fill import spelling_rows, term_rows
from chassis.work import changed_fields
from services.activities import projection
from services.activities.tables import entity_subject, entry_subject, timeline_entries
from services.activities.tables import schema as activities
from services.contacts.tables import schema as contacts
from services.marketing import reactions
from services.marketing.tables import deal_view, lead_view
from services.marketing.tables import schema as marketing
from services.sales.tables import schema as sales
from tests.bench.data_people import World
from tests.bench.data_records import Kind, record

SCHEMAS: Final[dict[str, Schema]] = {each.name: each for each in (contacts, sales, activities, marketing)}
_ACTOR: Final = "service:import"

Rows = list[tuple[Any, ...]]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass
class LedgerRow:
    """A row of a ledger, named as its columns."""

    tenant_id: UUID
    event_id: UUID
    entity_id: str
    type: str
    after: bytes
    changed: list[str]
    occur_time: dt.datetime
    commit_time: dt.datetime
    revision: int = 1
    before: bytes = b""
    actor: str = _ACTOR
    cause_event_id: UUID | None = None
    request_id: UUID | None = None
    trace_context: str = ""
    position: int | None = None
    stream_seq: int | None = None
    # The bodies are there, so their digests are made of them (chassis/chain.py).
    before_digest: bytes | None = None
    after_digest: bytes | None = None


@dataclass
class Chunk:
    """Some records of a kind, ready to be written but for their positions."""

    kind: Kind
    rows: Rows = field(default_factory=list)
    keys: Rows = field(default_factory=list)
    terms: Rows = field(default_factory=list)
    ledger: list[LedgerRow] = field(default_factory=list)


def chunk_of(kind: Kind, world: World) -> Chunk:
    """A block's records of a kind."""
    made = Chunk(kind)
    table, prefix, name = kind.resource.table, kind.prefix, f"{kind.resource.kind.full_name}.created"
    as_row = _columns(table)
    for number in range(kind.count(world)):
        message, happened = record(kind, world, number)
        uuid = world.uuid(prefix, number)
        values = kind.resource.row(message, 1) | {"tenant_id": world.tenant}
        made.rows.append(as_row(values))
        for key in dict.fromkeys(kind.resource.keys(message)):
            made.keys.append((world.tenant, prefix, key.kind, key.value, uuid, key.exclusive))
        made.terms += [tuple(row.values()) for row in term_rows(world.tenant, message)]
        made.ledger.append(
            LedgerRow(
                world.tenant,
                world.uuid(f"ev_{prefix}", number),
                message.id,
                name,
                message.SerializeToString(),
                changed_fields(None, message),
                happened,
                world.made_at(number),
            )
        )
    return made


@cache
def _columns(table: Table) -> Any:
    documents = frozenset(each.name for each in table.c if isinstance(each.type, JSONB))
    names = [each.name for each in table.c]

    def as_row(values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            json.dumps(values[name]) if name in documents and values[name] is not None else values[name]
            for name in names
        )

    return as_row


def ledger_columns(service: str) -> list[str]:
    """The columns of a ledger that are not made by the database."""
    return [each.name for each in SCHEMAS[service].ledger.c if each.name != "id"]


def tables_of(service: str, chunks: Sequence[Chunk], first: int) -> dict[str, dict[Table, Rows]]:
    """All the rows that records of a service have, by service and table; their positions count from ``first``."""
    schema = SCHEMAS[service]
    home: dict[Table, Rows] = {chunk.kind.resource.table: chunk.rows for chunk in chunks}
    home[schema.natural_keys] = [key for chunk in chunks for key in chunk.keys]
    home[schema.search_terms] = [term for chunk in chunks for term in chunk.terms]
    ledger = [row for chunk in chunks for row in chunk.ledger]
    for position, row in enumerate(ledger, first):
        row.position = position
    names = ledger_columns(service)
    home[schema.ledger] = [tuple(getattr(row, name) for name in names) for row in ledger]
    changes = [Change(service, row.position or 0, row.tenant_id, message_of(cast(Any, row))) for row in ledger]
    return _joined({service: home}, {"activities": _timeline(changes)}, {"marketing": _views(changes)})


def _joined(*parts: dict[str, dict[Table, Rows]]) -> dict[str, dict[Table, Rows]]:
    joined: dict[str, dict[Table, Rows]] = {}
    for part in parts:
        for service, tables in part.items():
            joined.setdefault(service, {}).update(tables)
    return joined


def _timeline(changes: list[Change]) -> dict[Table, Rows]:
    """What the timeline's projection makes of changes, each the first of its record."""
    entries: Rows = []
    places: Rows = []
    links: Rows = []
    for change in changes:
        tenant, body = change.tenant, change.message.SerializeToString(deterministic=True)
        place = change.occur_time, change.service, change.position
        entries.append((tenant, change.event_id, change.entity_id, change.type, *place, body))
        for subject in projection.subjects_of(change):
            places.append((tenant, subject, *place, change.event_id))
            links.append((tenant, change.entity_id, subject))
    return {timeline_entries: entries, entry_subject: places, entity_subject: links}


class _Kept:
    """Takes what marketing's reactions would write."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def gather(self, _write: Any, row: dict[str, Any]) -> None:
        self.rows.append(row)


_VIEWS: Final = {
    "crm.sales.v1.Lead": (lead_view, reactions.keep_lead),
    "crm.sales.v1.Deal": (deal_view, reactions.keep_deal),
}


def _views(changes: list[Change]) -> dict[Table, Rows]:
    """Marketing's copies of leads and deals."""
    made: dict[Table, Rows] = {}
    for resource, (table, reaction) in _VIEWS.items():
        rows = [_viewed(table, reaction, change) for change in changes if change.resource == resource]
        if rows:
            made[table] = rows
    return made


def _viewed(table: Table, reaction: Any, change: Change) -> tuple[Any, ...]:
    kept = _Kept()
    with contextlib.suppress(StopIteration):
        # It gathers and waits for nothing.
        reaction(change, kept).send(None)
    row = {"tenant_id": change.tenant} | {name.removeprefix("v_"): value for name, value in kept.rows[0].items()}
    return tuple(row[each.name] for each in table.c)


@asynccontextmanager
async def connected(owners: Mapping[str, str]) -> AsyncIterator[dict[str, Connection]]:
    """A connection to each service's database, by its owner's address."""
    services: dict[str, Connection] = {}
    try:
        for name in SCHEMAS:
            services[name] = await asyncpg.connect(owners[name], command_timeout=600)
        yield services
    finally:
        for connection in services.values():
            await connection.close()


@asynccontextmanager
async def open_to_owners(services: Mapping[str, Connection]) -> AsyncIterator[None]:
    """Lets the owners, who make the tables and whom no process uses, pass the tenant wall until the block ends.

    The walls of app and worker stay. COPY passes no wall at all, hence this. What a killed fill leaves open, the next
    start of the service closes again.
    """
    await _force(services, "NO FORCE")
    try:
        yield
    finally:
        await _force(services, "FORCE")


async def _force(services: Mapping[str, Connection], how: str) -> None:
    for name, connection in services.items():
        for table in _tenant_tables(name):
            await connection.execute(f"ALTER TABLE {table} {how} ROW LEVEL SECURITY")


def _tenant_tables(service: str) -> Iterator[str]:
    schema = SCHEMAS[service]
    yield from (name for name in schema.metadata.tables if name not in schema.shared)


async def spell(services: Mapping[str, Connection], tenant: UUID) -> None:
    """Keeps the spellings of the words that the tenant's records have."""
    words = "SELECT DISTINCT ON (term) term, id FROM search_terms WHERE tenant_id = $1 ORDER BY term"
    for connection in services.values():
        # The platform has kept those of what it made itself.
        await connection.execute("DELETE FROM search_spellings WHERE tenant_id = $1", tenant)
        found = await connection.fetch(words, tenant)
        rows = [tuple(row.values()) for each in found for row in spelling_rows(tenant, each["term"], each["id"])]
        await connection.copy_records_to_table("search_spellings", records=rows)


async def analyze(services: Mapping[str, Connection]) -> None:
    """Gives the planner statistics, and index-only scans their visibility map."""
    for name, connection in services.items():
        for table in _tenant_tables(name):
            await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=1800)
