"""What the same work costs on PostgreSQL alone, through asyncpg: for information, there is no goal for it."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import uvloop

from chassis import ids
from deploy.local import postgres
from tests.bench.goals import Row, Value, information
from tests.bench.records import Records
from tests.bench.settings import Settings
from tests.bench.stack import Stack

ROWS = ("asyncpg",)
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_GET = "SELECT * FROM contacts WHERE tenant_id = $1 AND id = $2"
_PAGE = "SELECT * FROM contacts WHERE tenant_id = $1 AND display_name > $2 ORDER BY display_name, id LIMIT 50"
# A row like one that is there with another id, and its row in the ledger, marked as published.
_INSERT = """
WITH made AS (
    INSERT INTO contacts ({columns}) SELECT {values} FROM contacts WHERE tenant_id = $1 AND id = $2 RETURNING id
)
INSERT INTO ledger (tenant_id, event_id, entity_id, revision, type, before, after, changed, actor, trace_context,
    occur_time, commit_time, position)
SELECT tenant_id, $3, $3::uuid::text, 1, type, before, after, changed, actor, trace_context, occur_time,
    clock_timestamp(), 0
FROM ledger WHERE tenant_id = $1 AND entity_id = $4 LIMIT 1
"""


def connect_string(stack: Stack, database: str) -> str:
    """How the superuser reaches a service's database; no policy keeps it from rows."""
    port = urlsplit(stack.env["RAPPORT_CONTACTS_DATABASE_URL"]).port
    assert port is not None
    return postgres.dsn(port, database, postgres.SUPERUSER, stack.state.password("postgres"))


def run(settings: Settings, stack: Stack, found: Records) -> Iterator[Row]:
    """Client CPU of a get, a page of 50, and an insert with its ledger row."""
    if settings.wants("asyncpg"):
        for name, value in uvloop.run(_measured(settings, stack, found)).items():
            yield information(f"asyncpg {name}", value, "µs", "the client's CPU for one, without a service")


async def _measured(settings: Settings, stack: Stack, found: Records) -> dict[str, Value]:
    connection: Connection = await asyncpg.connect(connect_string(stack, "contacts"))
    try:
        works = await _works(connection, found.client.tenant, found.people[0], found.names[0])
        rounds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(settings.rounds):
            for name, work in works.items():
                rounds[name].append(await _cpu_us(work, settings.seconds / 3))
    finally:
        await connection.close()
    return {name: Value(statistics.median(each), min(each), max(each)) for name, each in rounds.items()}


async def _works(
    connection: Connection, tenant: UUID, person: str, name: str
) -> dict[str, Callable[[], Awaitable[Any]]]:
    columns = await connection.fetch(
        "SELECT column_name AS name FROM information_schema.columns"
        " WHERE table_name = 'contacts' AND is_generated = 'NEVER'"
    )
    names = [f'"{row["name"]}"' for row in columns]
    values = ["$3::uuid" if each == '"id"' else each for each in names]
    get, page = await connection.prepare(_GET), await connection.prepare(_PAGE)
    insert = await connection.prepare(_INSERT.format(columns=", ".join(names), values=", ".join(values)))
    key = ids.decode(person)[1]
    assert await get.fetch(tenant, key), "the record is there"
    return {
        "get": lambda: get.fetch(tenant, key),
        "page of 50": lambda: page.fetch(tenant, name),
        "insert and ledger": lambda: insert.fetch(tenant, key, uuid.uuid4(), person),
    }


async def _cpu_us(work: Callable[[], Awaitable[Any]], seconds: float) -> float:
    count, spent, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        await work()
        count += 1
    return (time.process_time() - spent) * 1e6 / count
