"""From a commit to the event at a consumer, beside one publish and delivery of JetStream with the same settings.

"Seen" is the message at an ordered consumer of the stream, in this process; "committed" is the answer of the create.
Under load a process of its own makes the creates and notes their answers, so that this one has nothing to do but to
wait for events. Both read the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import nats
import uvloop
from crm.contacts.v1 import contact_pb2 as pb
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from chassis.events.broker import EVENT_ID, STREAM
from chassis.events.reactions import subject_of
from chassis.events.topology import _events
from tests.bench.calls import CREATE, Calls
from tests.bench.goals import Row, Value, at_most, within
from tests.bench.load import frames, frames_command, frames_seen, grpc_headers, percentiles
from tests.bench.measure import ahead_of_others, cpu_s
from tests.bench.records import Records
from tests.bench.settings import Settings
from tests.bench.stack import Stack

ROWS = ("events", "events with two")
_Create = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
_STREAM, _SUBJECT = "BENCH", "bench.event"
_BODY_BYTES = 400
_PATIENCE_S = 10.0
# Longer than a relay gathers, so that each commit of the quiet rounds comes after a quiet moment.
_PAUSES_S = (0.03, 0.06)
# The rate that is reached is measured for so long at least, and so long each round of load lasts.
_LEAST_S = 3.0
_SETTLE_S = 0.5
# How long the effects of that may take.
_EFFECTS_S = 60.0
_MOST_A_SECOND = 3_000


@dataclass
class Seen:
    """Times in milliseconds by round: a JetStream round trip and a commit, one at a time and at half load.

    ``cpu_us`` is what all processes of the platform used for a create at half load, its effects included.
    """

    floor: list[list[float]] = field(default_factory=list)
    single: list[list[float]] = field(default_factory=list)
    loaded_floor: list[list[float]] = field(default_factory=list)
    loaded: list[list[float]] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    rate: float = 0.0
    # A stall of the machine brings more calls at once than a service lets in.
    refused: int = 0


def run(settings: Settings, one: Stack, records: Records, two: tuple[Stack, Records] | None) -> Iterator[Row]:
    """Measures what is wanted and yields its rows."""
    if settings.wants("events"):
        yield from _rows("", measure(settings, one, records))
    if two is not None and settings.wants("events with two"):
        yield from _rows(" with two replicas", measure(settings, *two))


def _rows(suffix: str, seen: Seen) -> Iterator[Row]:
    floor, busy = _medians(seen.floor), _medians(seen.loaded_floor)
    half = f"{seen.rate:.0f} creates a second, half of what can be kept up with all effects"
    note = "from the answer of a create to the event at a consumer; floor: JetStream publish and delivery"
    yield within(f"event p50{suffix}", _medians(seen.single), "ms", floor, 3, note=f"one at a time, {note}")
    beside = {"quiet floor ms": round(floor.median, 2), "platform µs a create": round(statistics.median(seen.cpu_us))}
    yield within(
        f"event p50 at half load{suffix}", _medians(seen.loaded), "ms", busy, 3,
        note=f"{half}; floor: publish and delivery at the same time", beside=beside,
    )  # fmt: skip
    beside = {"floor p99 ms": round(_tails(seen.loaded_floor).median, 1), "refused": seen.refused}
    yield at_most(f"event p99 at half load{suffix}", _tails(seen.loaded), "ms", 50, note=half, beside=beside)


def _tails(rounds: Sequence[Sequence[float]]) -> Value:
    tails = [percentiles(sorted(times))[1] for times in rounds]
    return Value(statistics.median(tails), min(tails), max(tails))


def _medians(rounds: Sequence[Sequence[float]]) -> Value:
    medians = [statistics.median(times) for times in rounds]
    return Value(statistics.median(medians), min(medians), max(medians))


def measure(settings: Settings, stack: Stack, records: Records) -> Seen:
    """Rounds of floor, single commits and commits at half load, interleaved."""
    watch = _Watch(settings, stack, Calls(stack, records.client, records.people))
    with ahead_of_others(stack.whole) if settings.real_time else contextlib.nullcontext():
        return uvloop.run(watch.rounds())


class _Watch:
    def __init__(self, settings: Settings, stack: Stack, calls: Calls) -> None:
        self._settings, self._stack, self._calls = settings, stack, calls
        self._arrived: dict[str, float] = {}
        self._arrival = asyncio.Event()

    async def rounds(self, rate: float | None = None) -> Seen:
        """All rounds, with creates at half of what can be done or at so many a second where there is load."""
        client = await nats.connect(self._stack.env["RAPPORT_NATS_URL"])
        channels = [grpc.aio.insecure_channel(address) for address in self._stack.addresses("contacts")]
        try:
            self._jetstream = client.jetstream(timeout=5)
            await self._follow(self._jetstream)
            seen = Seen(rate=rate or await self._capacity() / 2)
            creates: list[_Create] = [channel.unary_unary(CREATE) for channel in channels]
            for _ in range(self._settings.rounds):
                seen.floor.append([await self._publish() for _ in range(self._singles)])
                seen.single.append([await self._create(random.choice(creates)) for _ in range(self._singles)])
                await self._load(seen)
        finally:
            for channel in channels:
                await channel.close()
            await client.close()
        return seen

    @property
    def _singles(self) -> int:
        return round(20 * max(1.0, self._settings.seconds))

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

    async def _times(self, since: dict[str, float]) -> list[float]:
        """How long after its time each arrived, in order. Raises TimeoutError where one does not come."""
        async with asyncio.timeout(_PATIENCE_S):
            while since.keys() - self._arrived.keys():
                self._arrival.clear()
                await self._arrival.wait()
        return [(self._arrived.pop(key) - began) * 1000 for key, began in since.items()]

    async def _publish(self) -> float:
        """The time from a publication to its delivery, after a pause."""
        await asyncio.sleep(random.uniform(*_PAUSES_S))
        key, began = uuid.uuid4().hex, time.perf_counter()
        await self._jetstream.publish(_SUBJECT, random.randbytes(_BODY_BYTES), headers={EVENT_ID: key})
        return (await self._times({key: began}))[0]

    async def _create(self, create: _Create) -> float:
        """The time from the answer of a create to its event, after a pause."""
        await asyncio.sleep(random.uniform(*_PAUSES_S))
        token = self._stack.token("contacts", self._calls.client.tenant)
        reply = await create(self._calls.create(), metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        return (await self._times({pb.Contact.FromString(reply).id: time.perf_counter()}))[0]

    async def _capacity(self) -> float:
        """Creates a second that can be kept up: the time ends when every event has had its effects."""
        bodies = [self._calls.create() for _ in range(round(_MOST_A_SECOND * self._load_s))]
        addresses, began = self._stack.addresses("contacts"), time.perf_counter()
        reached = await asyncio.to_thread(frames, addresses, CREATE, bodies, self._headers(), self._load_s)
        async with asyncio.timeout(_EFFECTS_S):
            while len(self._arrived) < reached.requests or await self._behind():
                await asyncio.sleep(0.05)
        self._arrived.clear()
        return reached.requests / (time.perf_counter() - began)

    async def _behind(self) -> bool:
        """Whether some consumer of the events has not done with them."""
        consumers = await self._jetstream.consumers_info(STREAM)
        return any(each.num_pending or each.num_ack_pending for each in consumers)

    def _headers(self) -> dict[str, str]:
        return grpc_headers(self._stack.token("contacts", self._calls.client.tenant))

    @property
    def _load_s(self) -> float:
        return max(_LEAST_S, self._settings.seconds)

    async def _load(self, seen: Seen) -> None:
        """Creates at their times, whether the ones before are answered or not, and meanwhile the floor."""
        bodies = [self._calls.create() for _ in range(int(seen.rate * self._load_s * 1.2) + 20)]
        headers, addresses = self._headers(), self._stack.addresses("contacts")
        used = cpu_s(self._stack.whole)
        with frames_command(addresses, CREATE, bodies, headers, self._load_s, seen.rate) as command:
            # In a thread: to fork from the loop would disturb gRPC's own.
            generator = asyncio.create_task(
                asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True)
            )
            floor: list[float] = []
            while not generator.done():
                floor.append(await self._publish())
        run = await generator
        told = frames_seen(CREATE, run.returncode, run.stdout, run.stderr)
        answered = {pb.Contact.FromString(bytes.fromhex(message)).id: at for at, message in told["answers"]}
        seen.refused += told["failed"]
        seen.loaded.append(await self._times(answered))
        seen.loaded_floor.append(floor)
        await asyncio.sleep(_SETTLE_S)
        seen.cpu_us.append((cpu_s(self._stack.whole) - used) * 1e6 / len(answered))
