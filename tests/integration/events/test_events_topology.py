"""One step makes the streams and consumers what the code declares, however often it is run."""

from typing import Any

from chassis.events import Effect, Reaction
from tests.integration.events.stage import SERVICE, Stage, keep_entry


async def test_it_can_be_repeated_and_follows_the_declarations(stage: Stage) -> None:
    await stage.topology([Reaction("crm.sales.v1.Lead.*", Effect.LOG, keep_entry)])
    await stage.topology([Reaction("crm.sales.v1.Lead.*", Effect.LOG, keep_entry)])
    assert (await _consumer(stage)).filter_subjects == ["crm.sales.lead.*.*"]
    await stage.topology([Reaction(f"crm.sales.v1.{each}.*", Effect.LOG, keep_entry) for each in ("Deal", "Lead")])
    config = await _consumer(stage)
    assert config.filter_subjects == ["crm.sales.deal.*.*", "crm.sales.lead.*.*"]
    assert (config.ack_wait, config.max_deliver, config.max_ack_pending) == (30, -1, 1000)


async def test_the_streams_bounds_are_explicit(stage: Stage) -> None:
    await stage.topology()
    client = await stage.client()
    try:
        jetstream = client.jetstream()
        events, letters = [(await jetstream.stream_info(name)).config for name in ("CRM", "CRM_DLQ")]
    finally:
        await client.close()
    assert events.subjects == ["crm.>"]
    assert (events.max_age, events.duplicate_window) == (7 * 24 * 3600, 120)
    assert not events.deny_delete  # it could not be undone, and erasure deletes messages
    assert not events.deny_purge
    assert min(events.max_bytes or 0, letters.max_bytes or 0) > 0


async def _consumer(stage: Stage) -> Any:
    client = await stage.client()
    try:
        return (await client.jetstream().consumer_info("CRM", SERVICE)).config
    finally:
        await client.close()
