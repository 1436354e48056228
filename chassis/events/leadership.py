"""Who of a service's relays, or sealers, leads: the one whose connection holds an advisory lock."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# A leader that is stopped loses its lock after so long; one that works touches it three times as often.
LEADER_IDLE_S: Final = 3


def lock_key(service: str) -> int:
    """The advisory lock that a service's relay leads by; its sealer's, where that is named after the service."""
    digest = hashlib.sha256(f"rapport relay {service}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@asynccontextmanager
async def candidate(dsn: str, service: str) -> AsyncIterator[Connection]:
    """A connection for the lock alone."""
    settings = {
        # A stopped process keeps its connections: without this limit it would keep the lock for ever.
        "idle_session_timeout": f"{LEADER_IDLE_S}s",
        "application_name": f"rapport-{service}-leader",
    }
    connection = await asyncpg.connect(dsn, timeout=2, command_timeout=2, server_settings=settings)
    try:
        yield connection
    finally:
        connection.terminate()  # closes at once, and the lock with it, even where the server does not answer


async def hold(connection: Connection) -> None:
    """Keeps the lock's connection from being idle; ends with an error when the server has closed it."""
    while True:
        await asyncio.sleep(LEADER_IDLE_S / 3)
        await connection.fetchval("SELECT 1")


@asynccontextmanager
async def working(dsn: str, service: str) -> AsyncIterator[Connection]:
    """A leader's connection for its statements, each of them a transaction of its own."""
    settings = {
        "application_name": f"rapport-{service}-relay",
        "statement_timeout": "5000",
        "lock_timeout": "4000",
        "timezone": "UTC",
        # A ledger has a partition a month, and planning for all of them costs more than the work.
        "plan_cache_mode": "force_generic_plan",
    }
    connection = await asyncpg.connect(dsn, timeout=2, command_timeout=6, server_settings=settings)
    try:
        yield connection
    finally:
        connection.terminate()
