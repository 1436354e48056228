"""Poison in a stream and a consumer slower than its input harm nobody else, and lose nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from chassis.change import Change
from chassis.db import Tx
from chassis.events import Consumer, Effect, Reaction, apply_topology
from chassis.events.consume import BATCH
from tests.integration.events.conftest import broker, logs, server, stage  # noqa: F401  the fixtures
from tests.integration.events.stage import ENTRIES, LEADS, SERVICE, Stage, keep_entry, until
from tests.reliability.conftest import Report

SLOW = "slow"
TENANTS = 5
COMMIT = 120
# Of each kind of poison, one message in so many.
RARE = 100
# How long the slow one takes for an event while the other one is not done.
PAUSE_S = 0.05


class Input:
    """Events of several tenants, of which some cannot be handled and some not even read."""

    def __init__(self, stage: Stage, seed: int, total: int) -> None:  # noqa: F811
        self.stage = stage
        self.random = random.Random(seed)
        self.total = total
        self.tenants = [stage.tenant, *(uuid4() for _ in range(TENANTS - 1))]
        self.events: dict[UUID, UUID] = {}
        self.choking: set[UUID] = set()
        self.unreadable = total // RARE

    async def commit(self) -> None:
        """Commits the events and publishes bytes that are none between them."""
        for begin in range(0, self.total, COMMIT):
            tenant = self.tenants[begin // COMMIT % TENANTS]
            made = await self.stage.commit(min(COMMIT, self.total - begin), tenant=tenant)
            self.choking.update(self.random.sample(made, max(1, len(made) // RARE)))
            self.events.update(dict.fromkeys(made, tenant))
        client = await self.stage.client()
        for number in range(self.unreadable):
            subject = f"crm.sales.lead.updated.{self.random.choice(self.tenants).hex}"
            await client.jetstream().publish(
                subject, self.random.randbytes(30), headers={"Nats-Msg-Id": f"bad-{number}"}
            )
        await client.close()

    @property
    def good(self) -> set[UUID]:
        """The events that can be handled."""
        return set(self.events) - self.choking

    async def handled(self) -> list[UUID]:
        """The events that had their effect, once for each time."""
        found: list[UUID] = []
        for tenant in self.tenants:
            async with self.stage.db.read(tenant) as tx:
                found += [row.event_id for row in await tx.rows(select(ENTRIES.c.event_id))]
        return found


async def _settled(stage: Stage, service: str) -> bool:  # noqa: F811
    client = await stage.client()
    try:
        info: Any = await client.jetstream().consumer_info("CRM", service)
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)
    finally:
        await client.close()


@pytest.mark.line(18)
async def test_poison_and_a_slow_consumer_harm_nobody_else(
    stage: Stage,  # noqa: F811
    scale: Callable[[int, int], int],
    seed: int,
    report: Report,
) -> None:
    given = Input(stage, seed, scale(600, 100_000))
    slowly: set[UUID] = set()
    most_held = 0
    others_done = asyncio.Event()

    async def choke(change: Change, tx: Tx) -> None:
        if change.event_id in given.choking:
            raise ValueError("it cannot be handled")

    async def slow(change: Change, tx: Tx) -> None:
        nonlocal most_held
        most_held = max(most_held, consumer.held)
        await asyncio.sleep(0 if others_done.is_set() else PAUSE_S)
        slowly.add(change.event_id)

    # The choke last: what came before it in its transaction must be rolled back with it.
    reactions = [Reaction(LEADS, Effect.LOG, keep_entry), Reaction(LEADS, Effect.LOG, choke)]
    dawdling = [Reaction(LEADS, Effect.LOG, slow)]
    await apply_topology(stage.nats_url, {SERVICE: reactions, SLOW: dawdling}, wait_s=10)
    await given.commit()
    await stage.relay()
    consumer = Consumer(SLOW, stage.db, stage.settings, dawdling)
    task = asyncio.create_task(consumer.run())
    await stage.consumer(reactions)
    await until(stage.published, 600)
    await until(lambda: _settled(stage, SERVICE), 3_600)
    lag = len(given.events) - len(slowly)
    others_done.set()
    handled = await given.handled()
    letters = [each for each in await stage.stream("CRM_DLQ") if f".{SERVICE}." in each.subject]
    await until(lambda: _settled(stage, SLOW), 3_600)
    await consumer.stop()
    await task
    poison = len(given.choking) + given.unreadable
    report(
        set(handled) == given.good and len(handled) == len(given.good) and len(letters) == poison
        and slowly == set(given.events) and lag > 0 and most_held <= BATCH,
        good=len(given.good), handled=len(handled), poison=poison, dead_letters=len(letters),
        slow_lag=lag, slow_handled=len(slowly), most_held=most_held,
    )  # fmt: skip
