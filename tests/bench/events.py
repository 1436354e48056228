"""From a commit to the event at a consumer, beside one publish and delivery of JetStream with the same settings.

"Seen" is the message at an ordered consumer of the stream; "committed" is the answer of the create. Both are times of
this process's clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import nats
import uvloop
from crm.contacts.v1 import contact_pb2 as pb
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from chassis.events.broker import EVENT_ID
from chassis.events.reactions import subject_of
from chassis.events.topology import _events
from tests.bench.calls import CREATE, Calls
from tests.bench.goals import Row, Value, at_most, within
from tests.bench.load import frames, grpc_headers, percentiles
from tests.bench.records import Records
from tests.bench.settings import Settings
from tests.bench.stack import Stack

ROWS = ("events", "events with two")
_STREAM, _SUBJECT = "BENCH", "bench.event"
_BODY_BYTES = 400
_PATIENCE_S = 10.0
# Longer than a relay gathers, so that each commit of the quiet rounds comes after a quiet moment.
_PAUSES_S = (0.03, 0.06)


@dataclass
class Seen:
    """Times in milliseconds: a JetStream round trip, single commits one after the other, commits at half load."""

    floor: list[list[float]] = field(default_factory=list)
    single: list[list[float]] = field(default_factory=list)
    loaded: list[list[float]] = field(default_factory=list)
    rate: float = 0.0


def run(settings: Settings, one: Stack, records: Records, two: tuple[Stack, Records] | None) -> Iterator[Row]:
    """Measures what is wanted and yields its rows."""
    if settings.wants("events"):
        yield from _rows("", measure(settings, one, records))
    if two is not None and settings.wants("events with two"):
        yield from _rows(" with two replicas", measure(settings, *two))


def _rows(suffix: str, seen: Seen) -> Iterator[Row]:
    floor = _medians(seen.floor)
    half = f"{seen.rate:.0f} creates a second, half of what was reached"
    note = "from the answer of a create to the event at a consumer; floor: JetStream publish and delivery"
    yield within(f"event p50{suffix}", _medians(seen.single), "ms", floor, 3, note=f"one at a time, {note}")
    loaded = _medians(seen.loaded)
    yield within(f"event p50 at half load{suffix}", loaded, "ms", floor, 3, note=half)
    tails = [percentiles(sorted(times))[1] for times in seen.loaded]
    value = Value(statistics.median(tails), min(tails), max(tails))
    yield at_most(f"event p99 at half load{suffix}", value, "ms", 50, note=half)


def _medians(rounds: Sequence[Sequence[float]]) -> Value:
    medians = [statistics.median(times) for times in rounds]
    return Value(statistics.median(medians), min(medians), max(medians))


def measure(settings: Settings, stack: Stack, records: Records) -> Seen:
    """Rounds of floor, single commits and commits at half load, interleaved."""
    calls = Calls(stack, records.client, records.people)
    headers = grpc_headers(stack.token("contacts", records.client.tenant))
    bodies = [calls.create() for _ in range(10_000)]
    reached = frames(stack.addresses("contacts")[0], CREATE, bodies, headers, settings.seconds)
    return uvloop.run(_Watch(settings, stack, calls).rounds(reached.rate / 2))


class _Watch:
    def __init__(self, settings: Settings, stack: Stack, calls: Calls) -> None:
        self._settings, self._stack, self._calls = settings, stack, calls
        self._answered: dict[str, float] = {}
        self._arrived: dict[str, float] = {}
        self._arrival = asyncio.Event()

    async def rounds(self, rate: float) -> Seen:
        """All rounds, with the creates at so many a second where there is load."""
        seen = Seen(rate=rate)
        client = await nats.connect(self._stack.env["RAPPORT_NATS_URL"])
        channels = [grpc.aio.insecure_channel(address) for address in self._stack.addresses("contacts")]
        try:
            jetstream = client.jetstream(timeout=5)
            await self._follow(jetstream)
            self._create: list[Callable[..., Any]] = [channel.unary_unary(CREATE) for channel in channels]
            for _ in range(self._settings.rounds):
                seen.floor.append(await self._floor(jetstream))
                seen.single.append(await self._single())
                seen.loaded.append(await self._loaded(rate))
        finally:
            for channel in channels:
                await channel.close()
            await client.close()
        return seen

    async def _follow(self, jetstream: JetStreamContext) -> None:
        """Consumes the tenant's new contacts and the floor's own stream, which is configured as the events' is."""
        template = _events(1, 64 * 1024**2)
        await jetstream.add_stream(dataclasses.replace(template, name=_STREAM, subjects=[_SUBJECT]))
        subject = subject_of("crm.contacts.v1.Contact.created", self._calls.client.tenant.hex)
        for each in (subject, _SUBJECT):
            await jetstream.subscribe(
                each, cb=self._take, ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
            )  # fmt: skip

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        self._arrived[headers.get("ce-subject", headers.get(EVENT_ID, ""))] = time.perf_counter()
        self._arrival.set()

    async def _all_arrived(self) -> list[float]:
        """The times from answer to arrival, in order. Raises TimeoutError where an event does not come."""
        async with asyncio.timeout(_PATIENCE_S):
            while self._answered.keys() - self._arrived.keys():
                self._arrival.clear()
                await self._arrival.wait()
        found = [(self._arrived[entity] - answered) * 1000 for entity, answered in self._answered.items()]
        self._answered.clear()
        self._arrived.clear()
        return found

    async def _floor(self, jetstream: JetStreamContext) -> list[float]:
        found: list[float] = []
        body = random.randbytes(_BODY_BYTES)
        for number in range(self._singles):
            key = f"{len(found)}-{number}-{time.time_ns()}"
            self._answered[key] = time.perf_counter()
            await jetstream.publish(_SUBJECT, body, headers={EVENT_ID: key})
            found += await self._all_arrived()
            await asyncio.sleep(random.uniform(*_PAUSES_S))
        return found

    @property
    def _singles(self) -> int:
        return round(20 * max(1.0, self._settings.seconds))

    async def _single(self) -> list[float]:
        found: list[float] = []
        for _ in range(self._singles):
            await self._make()
            found += await self._all_arrived()
            await asyncio.sleep(random.uniform(*_PAUSES_S))
        return found

    async def _loaded(self, rate: float) -> list[float]:
        """Creates at their times, whether the ones before are answered or not."""
        began, making = time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(max(20, int(rate * 2 * self._settings.seconds))):
            await asyncio.sleep(began + number / rate - time.perf_counter())
            making.add(asyncio.create_task(self._make()))
        await asyncio.gather(*making)
        return await self._all_arrived()

    async def _make(self) -> None:
        create = random.choice(self._create)
        token = self._stack.token("contacts", self._calls.client.tenant)
        reply = await create(self._calls.create(), metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        self._answered[pb.Contact.FromString(reply).id] = time.perf_counter()
