"""Replay ids keep their secret, and a feed that loses, doubles or mixes up messages hands out each change once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from crm.gateway.v1.event_pb2 import SubscribeRequest
from crm.type.v1 import change_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis import ids
from chassis.change import Change
from chassis.context import Caller
from chassis.errors import Invalid, Unavailable
from chassis.tokens import Sealer
from gateway.live import replay
from gateway.live.feed import QUEUE_LIMIT, Feed, Queue
from gateway.live.ledgers import Page
from gateway.live.replay import LEDGERS
from gateway.live.subscription import Subscriptions
from gateway.transcode import Transcoder

SEALER = Sealer("ab" * 32)
TENANT, OTHER = UUID(int=1), UUID(int=2)


@given(st.lists(st.integers(0, 2**62), min_size=len(LEDGERS), max_size=len(LEDGERS)))
def test_a_replay_id_keeps_every_position(positions: list[int]) -> None:
    place = dict(zip(LEDGERS, positions, strict=True))
    sealed = replay.seal(SEALER, TENANT, place)
    assert replay.unseal(SEALER, TENANT, sealed) == place


def test_what_a_client_keeps_for_us_can_be_an_argument_of_a_command() -> None:
    kept = [replay.seal(SEALER, TENANT, dict.fromkeys(LEDGERS, number)) for number in range(500)]
    kept += [SEALER.sign(str(number).encode()) for number in range(500)]
    assert all(text[0].isalpha() for text in kept)


def test_a_replay_id_opens_for_its_tenant_alone_and_says_nothing() -> None:
    place = dict.fromkeys(LEDGERS, 7)
    sealed = replay.seal(SEALER, TENANT, place)
    assert sealed != replay.seal(SEALER, TENANT, place)
    bent = sealed[:20] + ("A" if sealed[20] != "A" else "B") + sealed[21:]
    for tenant, text in ((OTHER, sealed), (TENANT, bent), (TENANT, sealed[:-1]), (TENANT, ""), (TENANT, "é" * 50)):
        with pytest.raises(Invalid) as caught:
            replay.unseal(SEALER, tenant, text)
        assert caught.value.reason_name == "REPLAY_ID_INVALID"


@given(st.text(max_size=200))
def test_no_text_breaks_a_replay_id(text: str) -> None:
    with pytest.raises(Invalid):
        replay.unseal(SEALER, TENANT, text)


def change(position: int, tenant: UUID = TENANT) -> Change:
    message = change_pb2.Change(
        event_id=str(UUID(int=position)), type="crm.contacts.v1.Contact.updated", entity_id=ids.new("contact")
    )
    return Change("contacts", position, tenant, message)


class Written:
    """Ledgers in memory: what a feed may read."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.reads = 0

    async def read(self, ledger: str, after: int, *, tenant: UUID | None, limit: int = 500) -> Page:
        self.reads += 1
        mine = self.changes if ledger == "contacts" else []
        last = len(mine)
        found = [each for each in mine if each.position > after][:limit]
        return Page(found, found[-1].position if len(found) == limit else max(after, last), last)


@asynccontextmanager
async def running(written: Written) -> AsyncIterator[Feed]:
    """A feed without its tail, so that the test decides what arrives."""
    feed = Feed("nats://127.0.0.1:1", written)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(follower.run()) for follower in feed._followers.values()]
    while True:
        try:
            feed.positions()
            break
        except Unavailable:
            await asyncio.sleep(0.01)
    try:
        yield feed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def seen(queue: Queue, count: int) -> list[int]:
    async with asyncio.timeout(10):
        while len(queue.waiting) < count:
            await asyncio.sleep(0.01)
    return [each.position for each in queue.waiting]


@settings(max_examples=12, deadline=None)
@given(st.permutations(list(range(1, 9))), st.sets(st.integers(1, 8), max_size=3))
def test_what_comes_mixed_up_doubled_or_not_at_all_is_handed_out_once_in_order(
    order: list[int], lost: set[int]
) -> None:
    async def check() -> None:
        written = Written()
        async with running(written) as feed:
            queue = feed.join(TENANT)
            written.changes = [change(position) for position in range(1, 9)]
            for position in [each for each in order if each not in lost] * 2:
                feed._arrived(written.changes[position - 1])
            assert await seen(queue, 8) == list(range(1, 9))
            assert feed.positions()["contacts"] == 8

    asyncio.run(check())


async def test_the_last_message_lost_is_found_without_another() -> None:
    written = Written()
    async with running(written) as feed:
        queue = feed.join(TENANT)
        written.changes = [change(1)]
        assert await seen(queue, 1) == [1]


async def test_only_the_tenant_of_a_change_gets_it() -> None:
    written = Written()
    async with running(written) as feed:
        mine, theirs = feed.join(TENANT), feed.join(OTHER)
        written.changes = [change(1), change(2, OTHER)]
        for each in written.changes:
            feed._arrived(each)
        assert await seen(mine, 1) == [1]
        assert await seen(theirs, 1) == [2]


async def test_nobody_subscribed_costs_no_reading_of_changes() -> None:
    written = Written()
    async with running(written) as feed:
        written.changes = [change(position) for position in range(1, 1001)]
        for follower in feed._followers.values():
            follower.look()
        async with asyncio.timeout(10):
            while feed.positions()["contacts"] < 1000:
                await asyncio.sleep(0.01)
        queue = feed.join(TENANT)
        assert not queue.waiting


def test_a_queue_never_grows_beyond_its_limit() -> None:
    queue = Queue()
    one: Any = change(1)
    for _ in range(QUEUE_LIMIT + 10):
        queue.put(one)
    assert queue.overflowed
    assert len(queue.waiting) == QUEUE_LIMIT


async def test_who_is_too_slow_for_its_queue_gets_everything_at_its_own_pace_from_the_ledgers() -> None:
    written, caller = Written(), Caller(TENANT, "api_key_1", frozenset({"*"}))

    async def recheck() -> Caller:
        return caller

    async with running(written) as feed:
        home = Subscriptions(feed, written, SEALER, Transcoder(), None)  # type: ignore[arg-type]
        stream = aiter(await home.open(SubscribeRequest(), recheck, caller))
        assert not (await anext(stream)).HasField("event")
        count = 3 * QUEUE_LIMIT
        written.changes = [change(position) for position in range(1, count + 1)]
        for each in written.changes:
            feed._arrived(each)
        assert [len(queue.waiting) for queue in feed._queues[TENANT]] == [QUEUE_LIMIT]
        seen: list[str] = []
        async with asyncio.timeout(30):
            while len(seen) < count:
                response = await anext(stream)
                seen += [response.event.event_id] if response.HasField("event") else []
        assert seen == [str(each.event_id) for each in written.changes]
