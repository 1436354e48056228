"""Whatever bytes a method gets, it answers with a code that blames them, and says nothing of its inside."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import grpc
import psutil
import pytest
from google.protobuf import json_format

from chassis.context import Caller
from chassis.contract import Method, load
from chassis.tokens import Signer
from tests.contract.world import World, request
from tests.reliability.conftest import Report
from tests.reliability.wire import ALLOWED, Wire, each
from tests.running import Client, Running

AT_ONCE = 12
GROWTH_MB = 50
_INSIDE = re.compile(
    r"<class|Traceback|\w(Error|Exception)\b|\b0x[0-9a-f]{6}|sqlalchemy|asyncpg|\b(SELECT|INSERT INTO|UPDATE \w+ SET)\b"
)


def inputs(good: bytes, dice: random.Random) -> Iterator[bytes]:
    """A round of six inputs: pure chance, a valid one with flipped bits, cut, doubled, retyped, and a deep one."""
    yield dice.randbytes(dice.choice((0, 1, 4, 40, 400)))
    flipped = bytearray(good or b"\x0a\x01x")
    for _ in range(dice.randrange(1, 4)):
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
    yield bytes(flipped)
    yield good[: dice.randrange(len(good) + 1)]
    yield good + good[: dice.randrange(len(good) + 1)] if dice.random() < 0.5 else good + good
    yield bytes([good[0] & 0xF8 | dice.choice((0, 1, 3, 4, 5, 6, 7))]) + good[1:] if good else b"\x0b"
    yield deep(dice.randrange(1, 16), dice.choice((99, 100, 101, 300)))


def deep(number: int, levels: int) -> bytes:
    """A message in field ``number`` of a message, and so on."""
    data = b""
    for _ in range(levels):
        length, size = len(data), b""
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        data = bytes([number << 3 | 2]) + size + bytes([length]) + data
    return data


@dataclass
class Seen:
    """What came back."""

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, path: str, data: bytes, code: grpc.StatusCode, said: str) -> None:
        self.codes[code.name] += 1
        if code not in ALLOWED or _INSIDE.search(said):
            self.wrong.append(f"{path} {data[:60].hex()}: {code.name} {said[:200]}")


def memory(platform: Running) -> dict[str, float]:
    """Each service's resident memory in megabytes."""
    running = platform.state.processes()
    return {
        name: psutil.Process(entry["pid"]).memory_info().rss / 2**20
        for name, entry in running.items()
        if entry.get("kind") in {method.home for method in load().methods.values()} | {"gateway"}
    }


@pytest.mark.line(24)
def test_no_bytes_look_like_a_fault_of_ours(
    platform: Running, scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    admin, operator = World(platform.tenant("Fuzz"), "Fuzz"), World(platform.operator(), "Fuzz")
    good: dict[Method, bytes] = {}
    for method in load().methods.values():
        if not method.streams and not method.internal:
            asked = request(operator if method.permission.startswith("platform.") else admin, method)
            good[method] = json_format.ParseDict(asked, method.request()).SerializeToString()
    dice, seen = random.Random(seed), Seen()

    async def one_round() -> None:
        async with Wire(admin.client) as wire, Wire(operator.client) as powerful:

            async def fuzz(method: Method) -> None:
                for data in inputs(good[method], dice):
                    through = powerful if method.permission.startswith("platform.") else wire
                    answer = await through.send(method.path, data)
                    seen.note(method.path, data, answer.code, answer.said)

            await each(good, AT_ONCE, fuzz)

    asyncio.run(one_round())
    before = memory(platform)
    wanted, rounds = scale(3, 100_000 // 6), 1
    while rounds < wanted and time_left():
        asyncio.run(one_round())
        rounds += 1
    after = memory(platform)
    grown = max(after[name] - before[name] for name in before.keys() & after.keys())
    report(
        not seen.wrong and grown <= GROWTH_MB and before.keys() == after.keys(),
        methods=len(good), inputs_a_method=6 * rounds, codes=dict(seen.codes), forbidden=len(seen.wrong),
        grown_mb=round(grown, 1), first=seen.wrong[:3],
    )  # fmt: skip


@pytest.mark.line(24)
def test_no_bytes_between_services_look_like_a_fault_of_ours(
    platform: Running, scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    """What only services call, called as one of them."""
    signer = Signer("activities", platform.state.key("activities.pem"))
    caller = Caller(UUID(int=seed), "service:activities", frozenset({"internal.*"}), issuer="activities")
    methods = [each for each in load().methods.values() if each.internal]
    dice, seen = random.Random(seed), Seen()

    async def fuzz(method: Method, home: str) -> None:
        address = platform.env[f"RAPPORT_{home.upper()}_ADDRESS"].split(",")[0]
        good = json_format.ParseDict({"after_position": "1"}, method.request(), ignore_unknown_fields=True)
        async with Wire(Client("", address, signer.token(home, caller), caller.tenant)) as wire:
            for data in inputs(good.SerializeToString(), dice):
                answer = await wire.send(method.path, data)
                seen.note(method.path, data, answer.code, answer.said)

    rounds = 0
    while rounds < scale(5, 100_000 // 6) and time_left():
        for method in methods:
            for home in ("contacts", "sales", "marketing", "gateway"):
                asyncio.run(fuzz(method, home))
        rounds += 1
    report(
        not seen.wrong and "OK" in seen.codes,
        methods=len(methods), inputs=6 * rounds, codes=dict(seen.codes), forbidden=len(seen.wrong),
        first=seen.wrong[:3],
    )  # fmt: skip
