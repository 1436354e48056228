"""One request id raced from many clients while processes die: one record, one event, one answer."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from chassis import contract
from deploy.local import control
from tests.reliability.conftest import Report
from tests.running import Running

_CREATE = "/crm.contacts.v1.CompanyService/CreateCompany"
_COPIES = 5
_AT_ONCE = 6
_PATIENCE_S = 120.0
_KILL_EVERY_S = 8.0


@pytest.mark.line(11)
async def test_a_raced_request_id_makes_one_record_and_one_answer(
    platform: Running, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    client = await asyncio.to_thread(platform.tenant, "Asks five times")
    chance, keys = random.Random(seed), scale(100, 10_000)
    killing = asyncio.create_task(_kill(platform, chance))
    gate = asyncio.Semaphore(_AT_ONCE)
    async with grpc.aio.insecure_channel(f"ipv4:{platform.env['RAPPORT_GATEWAY_ADDRESS']}") as channel:

        async def race(number: int) -> set[bytes]:
            request: Any = contract.load().methods[_CREATE].request()
            request.company.display_name = f"Company {number}"
            request.request_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            message, metadata = request.SerializeToString(), (("authorization", f"Bearer {client.key}"),)
            async with gate:
                copies = (_answer(channel, message, metadata) for _ in range(_COPIES))
                answers = set(await asyncio.gather(*copies))
            return answers | {await _answer(channel, message, metadata)}

        answers = await asyncio.gather(*(race(number) for number in range(keys)))
    killing.cancel()
    kills = (await asyncio.gather(killing, return_exceptions=True))[0]
    await asyncio.to_thread(control.wait_ready, platform.state)
    rows, events = await asyncio.to_thread(_counts, platform, client.tenant)
    mismatches = sum(len(each) != 1 for each in answers)
    report(
        rows == events == keys and mismatches == 0,
        keys=keys, copies=_COPIES + 1, rows=rows, events=events, mismatches=mismatches,
        kills=kills if isinstance(kills, int) else 0,
    )  # fmt: skip


async def _answer(channel: Any, message: bytes, metadata: Any) -> bytes:
    """The answer, asked for until there is one."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE_S
    while True:
        try:
            return bytes(await channel.unary_unary(_CREATE)(message, timeout=10, metadata=metadata))
        except grpc.aio.AioRpcError:
            if loop.time() > end:
                raise
            await asyncio.sleep(0.2)


async def _kill(platform: Running, chance: random.Random) -> int:
    """Kills one of the processes that the calls go through, again and again; how many, once cancelled."""
    kills = 0
    try:
        while True:
            part = chance.choice(("contacts-1", "contacts-2", "gateway-1", "gateway-2"))
            try:
                control.kill(platform.state, part, signal.SIGKILL)
                kills += 1
            except control.NotRunning:
                pass
            await asyncio.sleep(_KILL_EVERY_S)
    except asyncio.CancelledError:
        return kills


def _counts(platform: Running, tenant: uuid.UUID) -> tuple[int, int]:
    rows = platform.rows("contacts", tenant, "SELECT count(*) AS n FROM companies")
    events = platform.rows("contacts", tenant, "SELECT count(*) AS n FROM ledger WHERE type LIKE '%Company.created'")
    return int(rows[0]["n"]), int(events[0]["n"])
