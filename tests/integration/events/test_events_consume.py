"""The consumer's promise: each event has one effect, and one that cannot be handled stops no other."""

import asyncio
import random
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import nats.errors
from nats.js.errors import NotFoundError

from chassis import context, ids
from chassis.change import Change
from chassis.db import Tx
from chassis.errors import Reason, Unavailable
from chassis.events import Effect, Reaction
from deploy.local import postgres
from tests.integration.events.stage import (
    COPIES,
    ENTRIES,
    LEADS,
    REACTIONS,
    SERVICE,
    Broker,
    Stage,
    count,
    keep_entry,
    make_database,
    settings_for,
    until,
)


async def test_duplicates_in_any_order_have_one_effect_each(stage: Stage) -> None:
    """Every event four times in a random order: a copy, a log, and a counter end as if each came once."""
    await stage.topology()
    await stage.relay()
    leads = [uuid4() for _ in range(5)]
    for lead in leads:
        await stage.commit(20, lead=lead)
    await until(stage.published)
    events = [event for event in await stage.stream() for _ in range(3)]
    random.shuffle(events)
    client = await stage.client()
    for number, event in enumerate(events):
        await client.publish(event.subject, event.data, headers={**event.headers, "Nats-Msg-Id": f"again-{number}"})
    await client.flush()
    await client.close()

    consumer = await stage.consumer()
    await until(lambda: _all_consumed(stage))
    assert consumer.held == 0
    assert await stage.total() == 100
    assert await stage.count(ENTRIES) == 100
    async with stage.db.read(stage.tenant) as tx:
        copies = {row.id: (row.revision, row.name) for row in await tx.rows(COPIES.select())}
    assert copies == dict.fromkeys(leads, (20, "Lead 20"))


async def test_a_wiped_broker_changes_no_effect(stage: Stage) -> None:
    """Killed, emptied and started again in the middle: everything is applied, nothing twice."""
    await stage.topology()
    relay = await stage.relay()
    await stage.consumer()
    await stage.commit(300)
    relay.wake()
    await until(lambda: _totals(stage, 100))
    await stage.broker.kill()
    stage.broker.wipe()
    await stage.commit(200)
    await stage.broker.start()
    await stage.topology()
    await until(lambda: _totals(stage, 500))
    await until(lambda: _all_consumed(stage))
    assert await stage.total() == 500
    assert await stage.count(ENTRIES) == 500
    assert await stage.count(COPIES) == 500


async def test_a_durable_that_is_missing_or_deleted_is_waited_for(stage: Stage) -> None:
    await stage.consumer()
    await stage.relay()
    await stage.commit(3)
    await stage.topology()
    await until(lambda: _totals(stage, 3))
    client = await stage.client()
    await client.jetstream().delete_consumer("CRM", SERVICE)
    await client.close()
    await stage.commit(3)
    await stage.topology()
    await until(lambda: _totals(stage, 6))


async def test_a_poisonous_event_goes_to_the_dead_letters_and_the_others_go_on(stage: Stage) -> None:
    poisonous: set[UUID] = set()

    async def choke(change: Change, tx: Tx) -> None:
        if change.event_id in poisonous:
            raise ValueError("a value that a log must not hold")

    reactions = [*REACTIONS, Reaction(LEADS, Effect.LOG, choke)]
    await stage.topology(reactions)
    await stage.relay()
    events = await stage.commit(40)
    poisonous.add(events[17])
    await until(stage.published)
    client = await stage.client()
    await client.jetstream().publish(f"crm.sales.lead.updated.{stage.tenant.hex}", b"\xff no change")
    await client.close()
    await stage.consumer(reactions)
    await until(lambda: _all_consumed(stage))
    assert await stage.total() == 39
    assert await stage.count(ENTRIES) == 39
    letters = await stage.stream("CRM_DLQ")
    assert {letter.headers.get("ce-id", "") for letter in letters} == {str(events[17]), ""}
    for letter in letters:
        assert letter.subject == f"crm_dlq.{SERVICE}.crm.sales.lead.updated.{stage.tenant.hex}"
        assert letter.headers["rapport-error"] == "builtins.ValueError"


async def test_an_event_is_tried_eight_times_and_buried_at_the_ninth(stage: Stage) -> None:
    tries: list[UUID] = []

    async def never(change: Change, tx: Tx) -> None:
        tries.append(change.event_id)
        raise Unavailable(Reason.REASON_UNAVAILABLE, "the other service is away")

    reactions = [Reaction("crm.sales.v1.Lead.converted", Effect.ACT, never), Reaction(LEADS, Effect.ACT, count)]
    await stage.topology(reactions)
    await stage.relay()
    [doomed] = await stage.commit(verb="converted", tenant=uuid4())
    await stage.commit(10)
    await stage.consumer(reactions, first_retry_s=0.005)
    await until(lambda: _all_consumed(stage))
    assert tries == [doomed] * 8
    assert await stage.total() == 10
    [letter] = await stage.stream("CRM_DLQ")
    assert letter.headers["ce-id"] == str(doomed)


async def test_what_fails_for_a_while_is_tried_again_until_it_succeeds(stage: Stage) -> None:
    failures = 3

    async def flaky(change: Change, tx: Tx) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unavailable(Reason.REASON_UNAVAILABLE, "the other service is away")

    reactions = [*REACTIONS, Reaction(LEADS, Effect.ACT, flaky)]
    await stage.topology(reactions)
    await stage.relay()
    await stage.commit(1)
    await stage.consumer(reactions, first_retry_s=0.005)
    await until(lambda: _all_consumed(stage))
    assert failures == 0
    assert await stage.total() == 1


async def test_a_reaction_runs_as_its_service_in_the_event_s_tenant(stage: Stage) -> None:
    calls: list[tuple[Change, context.Call]] = []

    async def look(change: Change, tx: Tx) -> None:
        calls.append((change, context.current()))

    reactions = [Reaction("crm.sales.v1.Lead.updated", Effect.LOG, look)]
    await stage.topology(reactions)
    await stage.relay()
    lead, other_tenant = uuid4(), uuid4()
    [event] = await stage.commit(lead=lead)
    await stage.commit(tenant=other_tenant)
    await stage.consumer(reactions)
    await until(lambda: len(calls) == 2)
    change, call = next(each for each in calls if each[0].tenant == stage.tenant)
    assert call.caller.tenant == stage.tenant
    assert call.caller.principal == f"service:{SERVICE}"
    assert call.cause_event_id == change.event_id == event
    assert (change.resource, change.verb, change.revision) == ("crm.sales.v1.Lead", "updated", 1)
    assert (change.entity_uuid, change.after.id) == (lead, ids.encode("lead", lead))
    assert change.before is None
    assert {each.caller.tenant for _, each in calls} == {stage.tenant, other_tenant}


async def test_while_its_database_is_away_events_wait(tmp_path: Path, broker: Broker) -> None:
    """No delivery is used up and nothing is buried, however long it takes."""
    server = postgres.start(tmp_path / "postgres")
    stage: Stage | None = None
    try:
        await make_database(server, SERVICE)
        stage = Stage(settings_for(server, SERVICE, broker.server), broker)
        await stage.topology()
        await stage.relay()
        await stage.commit(50)
        await until(stage.published)
        server.stop()
        consumer = await stage.consumer(first_retry_s=0.005)
        await until(lambda: consumer.held == 50)
        restarted = postgres.start(tmp_path / "postgres", port=server.port)
        server.process = restarted.process
        await until(lambda: _all_consumed(stage))
        assert await stage.total() == 50
        assert await stage.stream("CRM_DLQ") == []
    finally:
        if stage is not None:
            await stage.close()
        server.stop()


async def test_stopping_hands_back_what_was_not_begun(stage: Stage) -> None:
    """Another replica gets it at once, not when the broker has waited for an answer."""
    held = asyncio.Event()

    async def slow(change: Change, tx: Tx) -> None:
        await held.wait()

    reactions = [Reaction(LEADS, Effect.LOG, slow), Reaction(LEADS, Effect.LOG, keep_entry)]
    await stage.topology(reactions)
    await stage.relay()
    await stage.commit(150)
    await until(stage.published)
    leaving = await stage.consumer(reactions)
    await until(lambda: leaving.held == 150)
    stopping = asyncio.create_task(leaving.stop())
    await until(lambda: leaving.held < 150)
    await stage.consumer([Reaction(LEADS, Effect.LOG, keep_entry)])
    await until(lambda: _entries(stage, 100))
    held.set()
    await stopping
    await until(lambda: _all_consumed(stage))
    assert await stage.count(ENTRIES) == 150


async def test_it_stops_without_waiting_for_a_broker_that_is_gone(stage: Stage) -> None:
    await stage.topology()
    consumer = await stage.consumer()
    await until(lambda: consumer.connected)
    await stage.broker.kill()
    await until(lambda: not consumer.connected)
    async with asyncio.timeout(5):  # far less than a process is given to stop
        await consumer.stop()


async def _all_consumed(stage: Stage) -> bool:
    """Whether the stream holds the whole ledger and the consumer has settled all of it."""
    if not await stage.published():
        return False
    client = await stage.client()
    try:
        info: Any = await client.jetstream().consumer_info("CRM", SERVICE)
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)
    except (NotFoundError, nats.errors.Error):
        return False
    finally:
        await client.close()


async def _totals(stage: Stage, at_least: int) -> bool:
    return await stage.total() >= at_least


async def _entries(stage: Stage, at_least: int) -> bool:
    return await stage.count(ENTRIES) >= at_least
