"""The platform's books, read as their owner reads them: every tenant's rows of every database, past all walls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import nats

from deploy.local import postgres
from deploy.local.parts import KINDS
from deploy.local.state import State

QUIET_S: Final = 60.0
STREAM: Final = "CRM"

T = TypeVar("T")

_LEDGER: Final = """
    SELECT tenant_id, event_id, entity_id, revision, type, before, after, changed, actor, request_id, position
    FROM ledger ORDER BY tenant_id, entity_id, revision, id
"""
_BEHIND: Final = """
    SELECT (SELECT count(*) FROM ledger WHERE position IS NULL) AS unnumbered,
           (SELECT last_position - watermark FROM relay) AS unpublished
"""
_OPEN: Final = "SELECT count(*) FROM conversions WHERE due_time IS NOT NULL"
# A connection that a process has given back is idle, and in no transaction.
_HELD: Final = """
    SELECT application_name, state, query, extract(epoch FROM clock_timestamp() - state_change)::float AS age_s
    FROM pg_stat_activity
    WHERE application_name LIKE 'rapport-%' AND state <> 'idle' AND clock_timestamp() - state_change > interval '2 s'
"""


@dataclass(slots=True)
class Entry:
    """A row of a ledger."""

    tenant: UUID
    event_id: UUID
    entity: str
    revision: int
    type: str
    before: bytes
    after: bytes
    changed: list[str]
    actor: str
    request_id: str
    position: int | None


class Books:
    """Reads one stack's databases and its stream."""

    def __init__(self, state: State, nats_url: str) -> None:
        self._state = State(state.root)
        self._state.create()
        self._nats_url = nats_url

    @asynccontextmanager
    async def open(self, service: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection to a service's database as the superuser."""
        port = self._state.remembered["ports"]["postgres"]
        password = self._state.password("postgres")
        connection = await asyncpg.connect(postgres.dsn(port, service, postgres.SUPERUSER, password), timeout=10)
        try:
            await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
            yield connection
        finally:
            await connection.close()

    async def rows(self, service: str, statement: str, *values: Any) -> list[asyncpg.Record]:
        """What a statement finds."""
        async with self.open(service) as connection:
            found: list[asyncpg.Record] = await connection.fetch(statement, *values)
            return found

    async def ledger(self, service: str) -> list[Entry]:
        """A whole ledger, record by record in the order of revisions."""
        return [
            Entry(
                row["tenant_id"], row["event_id"], row["entity_id"], row["revision"], row["type"], row["before"],
                row["after"], row["changed"], row["actor"], str(row["request_id"] or ""), row["position"],
            )
            for row in await self.rows(service, _LEDGER)
        ]  # fmt: skip

    async def behind(self) -> dict[str, int]:
        """What is still to be done, by where; empty once the platform is quiet."""
        found: dict[str, int] = {}
        for service in KINDS:
            row = (await self.rows(service, _BEHIND))[0]
            found |= {f"{service}: {name}": count for name, count in row.items() if count}
        if open_conversions := (await self.rows("sales", _OPEN))[0][0]:
            found["sales: conversions under way"] = open_conversions
        return found | await self._consumers()

    async def _consumers(self) -> dict[str, int]:
        client = await nats.connect(self._nats_url, connect_timeout=5, allow_reconnect=False)
        try:
            infos = await client.jetstream().consumers_info(STREAM)
        finally:
            await client.close()
        if not infos:
            return {"stream: no consumers": 1}
        return {
            f"{info.name}: {what}": count
            for info in infos
            for what, count in (("pending", info.num_pending), ("unacknowledged", info.num_ack_pending))
            if count
        }

    async def held(self) -> list[str]:
        """Database connections that a process keeps in a transaction or in a statement although nothing goes on."""
        return [
            f"{row['application_name']}: {row['state']} for {row['age_s']:.0f} s, {row['query'][:80]!r}"
            for row in await self.rows("postgres", _HELD)
        ]

    async def messages(self) -> int:
        """How many messages the stream took since it was last made."""
        client = await nats.connect(self._nats_url, connect_timeout=5)
        try:
            return int((await client.jetstream().stream_info(STREAM)).state.last_seq)
        finally:
            await client.close()


async def quiesce(books: Books, limit_s: float = QUIET_S) -> dict[str, int]:
    """Waits until nothing is under way any more; what still is after the limit."""
    return await _settled(books.behind, limit_s, {"the platform does not answer": 1})


async def pools_at_rest(books: Books, limit_s: float = 15.0) -> list[str]:
    """Waits until every database connection is back in its pool; those that are not after the limit."""
    return await _settled(books.held, limit_s, ["PostgreSQL does not answer"])


async def _settled(ask: Callable[[], Coroutine[Any, Any, T]], limit_s: float, otherwise: T) -> T:
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while True:
        try:
            left = await ask()
        except (OSError, TimeoutError, asyncpg.PostgresError, nats.errors.Error):
            left = otherwise
        if not left or loop.time() > end:
            return left
        await asyncio.sleep(0.25)
