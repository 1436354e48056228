"""Clients that give up, in storms, leave nothing behind: no connection checked out, no transaction open."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import grpc
import pytest

from chassis import contract
from deploy.local.parts import SERVICES
from tests.reliability.conftest import Report
from tests.running import Client, Running, until

_CREATE = "/crm.contacts.v1.CompanyService/CreateCompany"
_LIST = "/crm.contacts.v1.CompanyService/ListCompanies"
_BUSY = """
SELECT count(*) FILTER (WHERE state <> 'idle') AS busy, count(*) AS connections
FROM pg_stat_activity WHERE usename = $1
"""
_POOL = 10


@pytest.mark.line(7)
async def test_cancelled_calls_and_short_deadlines_leave_nothing_checked_out(
    platform: Running, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    client = await asyncio.to_thread(platform.tenant, "Impatient")
    chance, deadlines = random.Random(seed), scale(400, 10_000)
    async with grpc.aio.insecure_channel(f"ipv4:{platform.env['RAPPORT_GATEWAY_ADDRESS']}") as channel:
        cancelled = await _storm(channel, client, chance, 400, deadline=False)
        late = 0
        for _ in range(0, deadlines, 200):
            late += await _storm(channel, client, chance, 200, deadline=True)
    busy, connections = await asyncio.to_thread(until, lambda: _quiet(platform), "every connection is idle again")
    await asyncio.to_thread(client.get, "/v1/companies")
    report(
        busy == 0 and connections <= _POOL * 2 and cancelled > 0 and late > 0,
        cancelled=cancelled, deadlines=deadlines, deadlines_passed=late, busy=busy, connections=connections,
    )  # fmt: skip


async def _storm(channel: Any, client: Client, chance: random.Random, calls: int, *, deadline: bool) -> int:
    """Makes calls that are given up at random moments; how many of them were."""

    async def call() -> bool:
        path, patience_s = chance.choice((_CREATE, _LIST)), chance.uniform(0.001, 0.3)
        waiting = channel.unary_unary(path)(
            _request(path, chance), metadata=(("authorization", f"Bearer {client.key}"),),
            timeout=patience_s if deadline else 20,
        )  # fmt: skip
        if not deadline:
            asyncio.get_running_loop().call_later(patience_s, waiting.cancel)
        try:
            await waiting
        except asyncio.CancelledError:
            return True
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return False

    return sum(await asyncio.gather(*(call() for _ in range(calls))))


def _request(path: str, chance: random.Random) -> bytes:
    request: Any = contract.load().methods[path].request()
    if path == _CREATE:
        request.company.display_name = "Given up"
        request.request_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    else:
        request.page_size = 50
    return bytes(request.SerializeToString())


def _quiet(platform: Running) -> tuple[int, int] | None:
    """How many connections of the busiest role there are, once none of any service is in use."""
    counts = [asyncio.run(_connections(platform.env, kind)) for kind in (*SERVICES, "gateway")]
    return None if any(busy for busy, _ in counts) else (0, max(connections for _, connections in counts))


async def _connections(env: dict[str, str], kind: str) -> tuple[int, int]:
    """Connections of a service's app role that are in use, and all of them, but for the one that asks."""
    connection = await asyncpg.connect(env[f"RAPPORT_{kind.upper()}_DATABASE_URL"])
    try:
        row = await connection.fetchrow(_BUSY, f"{kind}_app")
        return row["busy"] - 1, row["connections"] - 1
    finally:
        await connection.close()
