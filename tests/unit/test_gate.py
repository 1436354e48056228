"""Admission: bounded places, turns for tenants, quick refusals, and an exact count whatever is cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest

from chassis.errors import Exhausted
from chassis.gate import Gate
from gateway.admission import Admission

_HEAD = b"GET /v1/companies HTTP/1.1\r\nhost: x\r\nauthorization: Bearer rap_1\r\n\r\n"


async def _stay(gate: Gate, tenant: str, until: asyncio.Event) -> str:
    async with gate.enter(tenant):
        await until.wait()
    return tenant


async def test_what_finds_no_place_in_time_is_refused_and_told_when_to_come_again() -> None:
    gate, until = Gate(4), asyncio.Event()
    inside = [asyncio.create_task(_stay(gate, "a", until)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refused:
        await gate.take("a")
    assert refused.value.retry_s
    until.set()
    await asyncio.gather(*inside)
    assert gate.taken == 0


async def test_a_tenant_with_many_calls_leaves_places_to_the_others() -> None:
    gate, until = Gate(16), asyncio.Event()
    quiet = [asyncio.create_task(_stay(gate, f"quiet {n}", until)) for n in range(7)]
    await asyncio.sleep(0)
    noisy = [asyncio.create_task(_stay(gate, "noisy", until)) for _ in range(100)]
    await asyncio.sleep(0)
    late = [asyncio.create_task(_stay(gate, f"quiet {n}", until)) for n in range(7)]
    await asyncio.sleep(0.05)
    until.set()
    assert await asyncio.gather(*quiet, *late)
    served = [each for each in await asyncio.gather(*noisy, return_exceptions=True) if each == "noisy"]
    assert 1 <= len(served) <= 4
    assert gate.taken == 0


async def test_one_tenant_alone_has_every_place() -> None:
    gate, until = Gate(16), asyncio.Event()
    alone = [asyncio.create_task(_stay(gate, "alone", until)) for _ in range(16)]
    await asyncio.sleep(0)
    assert gate.taken == 16
    until.set()
    await asyncio.gather(*alone)


async def test_no_place_is_lost_whatever_is_cancelled_and_whenever() -> None:
    chance, gate = random.Random(7), Gate(5)

    async def call(tenant: str) -> None:
        async with gate.enter(tenant):
            await asyncio.sleep(chance.uniform(0, 0.004))

    for _ in range(30):
        calls = [asyncio.create_task(call(chance.choice("abc"))) for _ in range(30)]
        for each in chance.sample(calls, 15):
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.03), each.cancel)
        await asyncio.gather(*calls, return_exceptions=True)
    assert gate.taken == 0
    assert not gate.closed("a")


async def test_slow_calls_lower_the_limit_and_quick_ones_raise_it_again() -> None:
    gate = Gate(64)

    def calls(tenants: int, took_s: float) -> None:
        for _ in range(tenants):
            gate.give_back("a", took_s)

    for _ in range(6):
        await asyncio.gather(*(gate.take("a") for _ in range(gate.limit)))
        gate._looked = 0.0
        calls(gate.taken, 1.0)
    assert gate.limit == 16
    for _ in range(40):
        await asyncio.gather(*(gate.take("a") for _ in range(gate.limit)))
        gate._looked = 0.0
        calls(gate.taken, 0.01)
    assert gate.limit == 64


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_HEAD[:-2], id="a head that has not ended"),
        pytest.param(_HEAD + _HEAD, id="two requests"),
        pytest.param(_HEAD.replace(b"/v1/companies", b"/readyz"), id="a probe"),
        pytest.param(b"POST /v1/notes HTTP/1.1\r\ncontent-length: 9\r\n\r\n{}", id="a body that has not ended"),
        pytest.param(b"POST /v1/notes HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="chunks"),
        pytest.param(b"{}", id="the rest of a body"),
    ],
)
def test_at_the_door_only_whole_requests_are_turned_away(data: bytes) -> None:
    admission = Admission(4)
    assert (admission.refusal(_HEAD, range(100)) or b"").startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert admission.refusal(_HEAD, range(3)) is None
    assert admission.refusal(data, range(100)) is None


async def test_reads_are_turned_away_before_writes() -> None:
    gate, until = Gate(16), asyncio.Event()
    inside = [asyncio.create_task(_stay(gate, "a", until)) for _ in range(16)]
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(_stay(gate, "a", until)) for _ in range(gate.queue // 2)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted):
        await gate.take("a", reads=True)
    assert gate.closed("a", reads=True)
    assert not gate.closed("a")
    until.set()
    await asyncio.gather(*inside, *waiting)
    assert gate.taken == 0
