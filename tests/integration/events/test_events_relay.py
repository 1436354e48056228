"""The relay's promise: every committed row gets the next number, once, and reaches the stream in that order."""

import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from pydantic import SecretStr

from chassis.events import Tail, republish
from chassis.events.leadership import LEADER_IDLE_S
from deploy.local import children, postgres
from tests.integration.events.stage import Stage, until

ROOT = Path(__file__).resolve().parents[3]


async def test_rows_reach_the_stream_in_the_order_of_their_positions(stage: Stage) -> None:
    await stage.topology()
    relay = await stage.relay()
    await asyncio.gather(*(stage.commit(25, tenant=uuid4()) for _ in range(8)))
    relay.wake()
    await until(stage.published)
    rows, messages = await stage.ledger(), await stage.stream()
    assert [row.position for row in rows] == list(range(1, 201))
    assert [message.headers["ce-id"] for message in messages] == [str(row.event_id) for row in rows]
    row, message = rows[0], messages[0]
    assert message.subject == f"crm.sales.lead.updated.{row.tenant_id.hex}"
    assert message.headers["ce-source"] == "probe"
    assert message.headers["ce-type"] == row.type
    assert message.headers["ce-subject"] == row.entity_id
    assert message.headers["rapport-position"] == "1"


async def test_two_leaders_at_once_number_without_gap_or_repetition(stage: Stage, server: postgres.Postgres) -> None:
    """Two hold what each believes to be the lock, as after a leader was stopped and wakes."""
    await stage.topology()
    first = await stage.relay(relay_batch=7)
    second = await stage.relay(relay_batch=5, leader_dsn=SecretStr(server.dsn_for("postgres")))
    await until(lambda: first.leading and second.leading)

    async def write() -> None:
        for _ in range(10):
            await stage.commit(4, tenant=uuid4())
            first.wake()
            second.wake()

    await asyncio.gather(*(write() for _ in range(5)))
    await until(stage.published)
    assert await stage.positions() == list(range(1, 201))
    assert {message.headers["ce-id"] for message in await stage.stream()} == {
        str(row.event_id) for row in await stage.ledger()
    }


async def test_a_stopped_leader_is_replaced_and_does_no_harm_when_it_wakes(stage: Stage, tmp_path: Path) -> None:
    await stage.topology()
    stopped = children.spawn(
        [sys.executable, "-m", "tests.integration.events.relay_process"],
        tmp_path / "relay.log",
        env={**os.environ, **stage.environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
        cwd=ROOT,
    )
    try:
        await stage.commit(10)
        await until(stage.published)
        stopped.send_signal(signal.SIGSTOP)
        standby = await stage.relay()
        await stage.commit(10)
        await until(stage.published)
        assert standby.leading
        stopped.send_signal(signal.SIGCONT)
        await stage.commit(10)
        standby.wake()
        await until(stage.published)
        assert await stage.positions() == list(range(1, 31))
    finally:
        children.stop(stopped)


async def test_a_leader_whose_loop_stalled_takes_its_lock_again(stage: Stage) -> None:
    await stage.topology()
    relay = await stage.relay()
    await until(lambda: relay.leading)
    time.sleep(LEADER_IDLE_S + 1)  # noqa: ASYNC251 - this is the stall: the server closes the lock's connection
    await stage.commit(10)
    await until(stage.published)
    await until(lambda: relay.leading)
    assert await stage.positions() == list(range(1, 11))


async def test_numbering_goes_on_while_nats_is_killed_and_publishing_after(stage: Stage) -> None:
    await stage.topology()
    relay = await stage.relay()
    await stage.commit(20)
    await until(stage.published)
    await stage.broker.kill()
    await stage.commit(600)
    relay.wake()
    await until(lambda: _numbered(stage))
    assert not await stage.published()
    await stage.broker.start()
    await until(stage.published)
    assert await stage.positions() == list(range(1, 621))
    assert len(await stage.stream()) == 620


async def test_what_a_wiped_broker_lost_is_published_again(stage: Stage) -> None:
    await stage.topology()
    await stage.relay()
    await stage.commit(300)
    await until(stage.published)
    await stage.broker.kill()
    stage.broker.wipe()
    await stage.commit(5)
    await stage.broker.start()
    await stage.topology()
    await until(lambda: _stream_holds(stage, 305))
    ids_published = {message.headers["ce-id"] for message in await stage.stream()}
    assert ids_published == {str(row.event_id) for row in await stage.ledger()}


async def test_republish_sends_again_what_was_committed_since(stage: Stage) -> None:
    await stage.topology()
    await stage.relay()
    await stage.commit(30)
    await until(stage.published)
    seen: list[int] = []
    tail = Tail(stage.nats_url, lambda change: seen.append(change.position))
    following = asyncio.create_task(tail.run())
    await until(lambda: tail.connected)
    assert await republish(stage.db, datetime.now(UTC) - timedelta(hours=1)) == 30
    await stage.commit(1)
    await until(lambda: seen == list(range(1, 32)))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def _numbered(stage: Stage) -> bool:
    return None not in await stage.positions()


async def _stream_holds(stage: Stage, count: int) -> bool:
    client = await stage.client()
    try:
        return (await client.jetstream().stream_info("CRM")).state.messages == count
    finally:
        await client.close()
