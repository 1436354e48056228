"""Bulk import through the API beside COPY of the same rows into the same tables with their indexes."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import uvloop
from crm.contacts.v1 import contact_pb2 as pb

from tests.bench import records
from tests.bench.goals import Row, Value, at_most, reaching
from tests.bench.information import connect_string
from tests.bench.measure import cpu_s, quiet, rss_mb
from tests.bench.settings import Settings
from tests.bench.stack import Stack
from tests.running import Client

ROWS = ("bulk", "bulk memory")
_CREATE = "/crm.contacts.v1.ContactService/BatchCreateContacts"
_BATCH, _AT_ONCE = 1_000, 2
_ROWS, _ROWS_FULL, _ROWS_MEMORY = 5_000, 50_000, 1_000_000
_TABLES = ("contacts", "natural_keys", "search_terms", "ledger")
_SHARE, _SLOPE_MB = 0.10, 5
# An emptied identity is given by the database; a relay must not publish the copies.
_LEFT_OUT = {"ledger": {"id"}}


def run(settings: Settings, one: Stack) -> Iterator[Row]:
    """Measures what is wanted and yields its rows."""
    client = one.tenant("Import")
    if settings.wants("bulk"):
        yield _rates(settings, one, client)
    if settings.full and settings.wants("bulk memory"):
        yield _slope(one, client)


def _rates(settings: Settings, one: Stack, client: Client) -> Row:
    rows = _ROWS_FULL if settings.full else _ROWS
    ours, copied, cpu = [], [], []
    for _ in range(settings.rounds):
        tenant = one.tenant("Import")
        before, began = cpu_s(one.whole), time.perf_counter()
        uvloop.run(load(one, tenant, rows))
        ours.append(rows / (time.perf_counter() - began))
        quiet(one.whole)
        cpu.append((cpu_s(one.whole) - before) * 1e6 / rows)
        copied.append(rows / uvloop.run(copy(one, tenant.tenant)))
    row = reaching(
        "bulk import", _value(ours), "rows/s", _value(copied), _SHARE,
        note="contacts by BatchCreate through the gateway's gRPC; floor: COPY of the same rows",
    )  # fmt: skip
    return dataclasses.replace(row, beside={"platform CPU µs a row": round(statistics.median(cpu))})


def _value(rates: Sequence[float]) -> Value:
    return Value(statistics.median(rates), min(rates), max(rates))


async def load(stack: Stack, client: Client, rows: int, start: int = 0) -> None:
    """Creates so many contacts in calls of a thousand, each with a request id. Raises grpc.RpcError."""
    numbers = iter(range(start, start + rows, _BATCH))
    async with grpc.aio.insecure_channel(stack.env["RAPPORT_GRPC"]) as channel:
        create: Any = channel.unary_unary(_CREATE)

        async def one_after_the_other() -> None:
            for first in numbers:
                request = _request(first, min(_BATCH, start + rows - first))
                await create(request, metadata=(("authorization", f"Bearer {client.key}"),), timeout=30)

        await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))


def _request(first: int, count: int) -> bytes:
    request = pb.BatchCreateContactsRequest(atomic=True, request_id=str(uuid.uuid4()))
    for number in range(first, first + count):
        person = records.person(number)
        contact = pb.Contact(**{name: person[name] for name in ("given_name", "family_name", "job_title", "source")})
        contact.emails.add(address=person["emails"][0]["address"])
        request.requests.add(contact=contact)
    return request.SerializeToString()


async def copy(stack: Stack, tenant: UUID) -> float:
    """Copies a tenant's rows into another tenant of the same tables; the seconds that the writing took."""
    connection = await asyncpg.connect(connect_string(stack, "contacts"))
    try:
        binary = {table: await _taken(connection, table, tenant, uuid.uuid4()) for table in _TABLES}
        began = time.perf_counter()
        async with connection.transaction():
            for table, (columns, chunks) in binary.items():
                await connection.copy_to_table(table, source=_each(chunks), columns=columns, format="binary")
        return time.perf_counter() - began
    finally:
        await connection.close()


async def _taken(
    connection: asyncpg.Connection[asyncpg.Record], table: str, tenant: UUID, other: UUID
) -> tuple[list[str], list[bytes]]:
    """A table's columns and its rows of a tenant in COPY's binary form, with another tenant in its place."""
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1 AND is_generated = 'NEVER'", table
    )
    columns = [row["column_name"] for row in rows if row["column_name"] not in _LEFT_OUT.get(table, ())]
    shown = ", ".join(f"'{other}'::uuid" if name == "tenant_id" else f'"{name}"' for name in columns)
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(bytes(chunk))

    query = f"SELECT {shown} FROM {table} WHERE tenant_id = '{tenant}'"
    await connection.copy_from_query(query, output=keep, format="binary")
    return columns, chunks


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _slope(one: Stack, client: Client) -> Row:
    """How much the platform's own processes grow over a million rows once they are warm."""
    own = one.pids("contacts", "gateway", "activities", "sales", "marketing")
    step = _ROWS_MEMORY // 10
    points = []
    for portion in range(11):
        uvloop.run(load(one, client, step, portion * step))
        quiet(one.whole, 60)
        points.append((portion * step / 1e6, rss_mb(own)))
    slope = statistics.linear_regression(*zip(*points[1:], strict=True)).slope
    beside = {"start MB": points[0][1], "end MB": points[-1][1]}
    return at_most("bulk import, memory", Value(slope, slope, slope), "MB a million rows", _SLOPE_MB, beside=beside)
