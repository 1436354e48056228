"""Writes invented records straight into the services' databases, as if they had been imported and published.

Each record has its row, its natural keys, one ledger row and its place in the projections. The ledger rows get the
next positions, and the relay's mark moves over them in the same transaction: no event is published, positions stay
without gaps, and rebuilds and resuming subscribers find the records in the ledger as they find any others.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
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
from chassis.work import changed_fields
from services.activities import projection
from services.activities.tables import schema as activities
from services.contacts.tables import schema as contacts
from services.marketing import reactions
from services.marketing.tables import deal_view, lead_view
from services.marketing.tables import schema as marketing
from services.sales.tables import schema as sales
from tests.bench.data_people import World
from tests.bench.data_records import Kind, record

SCHEMAS: Final[dict[str, Schema]] = {each.name: each for each in (contacts, sales, activities, marketing)}
CHUNK: Final = 5_000
_ACTOR: Final = "service:import"
_QUIET_LIMIT_S: Final = 60.0

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


@dataclass
class Chunk:
    """Some records of a kind, ready to be written but for their positions."""

    kind: Kind
    rows: Rows = field(default_factory=list)
    keys: Rows = field(default_factory=list)
    ledger: list[LedgerRow] = field(default_factory=list)


def chunk_of(kind: Kind, world: World, numbers: Iterable[int]) -> Chunk:
    """The records of these numbers."""
    made = Chunk(kind)
    table, prefix, name = kind.resource.table, kind.prefix, f"{kind.resource.kind.full_name}.created"
    as_row = _columns(table)
    for number in numbers:
        # The moment of the hour before `now` that the record's id names.
        made_at = world.now - dt.timedelta(seconds=3600 - number * 0.0003)
        message, happened = record(kind, world, number, made_at)
        uuid = world.uuid(prefix, number)
        values = kind.resource.codec.row(message) | {"tenant_id": world.tenant, "revision": 1}
        made.rows.append(as_row(values))
        for key in dict.fromkeys(kind.resource.keys(message)):
            made.keys.append((world.tenant, prefix, key.kind, key.value, uuid, key.exclusive))
        made.ledger.append(
            LedgerRow(
                world.tenant,
                world.uuid(f"ev_{prefix}", number),
                message.id,
                name,
                message.SerializeToString(),
                changed_fields(None, message),
                happened,
                made_at,
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


async def write(chunk: Chunk, services: Mapping[str, Connection]) -> int:
    """Writes a chunk; how many rows of all tables that were.

    Waits until all before it is published. Raises TimeoutError where that does not happen.
    """
    service = chunk.kind.service
    end = time.monotonic() + _QUIET_LIMIT_S
    while not await _write_home(chunk, services[service]):
        if time.monotonic() > end:
            raise TimeoutError("the relay does not come to rest: something else writes, or NATS is away")
        await asyncio.sleep(0.05)
    changes = [Change(service, row.position or 0, row.tenant_id, message_of(cast(Any, row))) for row in chunk.ledger]
    projected = await _project_timeline(services["activities"], changes)
    return len(chunk.rows) * 2 + len(chunk.keys) + projected + await _project_views(services["marketing"], changes)


async def _write_home(chunk: Chunk, home: Connection) -> bool:
    """Rows, natural keys and ledger in one transaction, which keeps the relay out; False while it has work to do."""
    schema = SCHEMAS[chunk.kind.service]
    names = [each.name for each in schema.ledger.c if each.name != "id"]
    async with home.transaction():
        relay = await home.fetchrow("SELECT last_position, watermark FROM relay WHERE id = 1 FOR UPDATE")
        assert relay is not None
        if relay["last_position"] != relay["watermark"]:
            return False
        for position, row in enumerate(chunk.ledger, relay["last_position"] + 1):
            row.position = position
        await _copy(home, chunk.kind.resource.table, chunk.rows)
        await _copy(home, schema.natural_keys, chunk.keys)
        await _copy(home, schema.ledger, [tuple(getattr(row, name) for name in names) for row in chunk.ledger], names)
        await home.execute(
            "UPDATE relay SET last_position = last_position + $1, watermark = watermark + $1 WHERE id = 1",
            len(chunk.ledger),
        )
        return True


async def _copy(connection: Connection, table: Table, rows: Rows, columns: Sequence[str] = ()) -> None:
    if rows:
        await connection.copy_records_to_table(
            table.name, records=rows, columns=list(columns) or [each.name for each in table.c]
        )


async def _project_timeline(connection: Connection, changes: list[Change]) -> int:
    """What the timeline's projection makes of changes, each the first of its record."""
    tables = activities.metadata.tables
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
    async with connection.transaction():
        for name, rows in (("timeline_entries", entries), ("entry_subject", places), ("entity_subject", links)):
            await _copy(connection, tables[name], rows)
    return len(entries) + len(places) + len(links)


class _Kept:
    """Takes what marketing's reactions would write."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def gather(self, _write: Any, row: dict[str, Any]) -> None:
        self.rows.append(row)


async def _project_views(connection: Connection, changes: list[Change]) -> int:
    """Marketing's copies of leads and deals."""
    views = {
        "crm.sales.v1.Lead": (lead_view, reactions.keep_lead),
        "crm.sales.v1.Deal": (deal_view, reactions.keep_deal),
    }
    if not changes or changes[0].resource not in views:
        return 0
    table, reaction = views[changes[0].resource]
    kept = _Kept()
    for change in changes:
        await reaction(change, kept)  # type: ignore[arg-type]
    rows = [
        tuple(change.tenant if each.name == "tenant_id" else row[f"v_{each.name}"] for each in table.c)
        for change, row in zip(changes, kept.rows, strict=True)
    ]
    await _copy(connection, table, rows)
    return len(rows)


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


async def analyze(services: Mapping[str, Connection]) -> None:
    """Gives the planner statistics, and index-only scans their visibility map."""
    for name, connection in services.items():
        for table in _tenant_tables(name):
            await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=1800)


def shuffle(kinds: Sequence[Kind], world: World) -> list[tuple[Kind, range]]:
    """All the chunks of some kinds, mixed as they come in life, each kind's in order."""
    chunks = {
        each.prefix: [
            range(at, min(at + CHUNK, each.count(world.size))) for at in range(0, each.count(world.size), CHUNK)
        ]
        for each in kinds
    }
    order = [each for each in kinds for _ in chunks[each.prefix]]
    random.Random(0).shuffle(order)
    return [(each, chunks[each.prefix].pop(0)) for each in order]
