"""The live feed follows every event and says when it missed some."""

import asyncio

from chassis.events import Tail
from tests.integration.events.stage import Stage, until


async def test_the_tail_follows_in_order_and_tells_when_it_was_cut(stage: Stage) -> None:
    await stage.topology()
    await stage.relay()
    seen: list[int] = []
    turns: list[bool] = []
    tail = Tail(stage.nats_url, lambda change: seen.append(change.position), turns.append)
    following = asyncio.create_task(tail.run())
    await until(lambda: turns == [True])
    await stage.commit(50)
    await until(lambda: seen == list(range(1, 51)))
    await stage.broker.kill()
    await until(lambda: turns == [True, False])
    await stage.broker.start()
    await until(lambda: turns == [True, False, True])
    await stage.commit(10)
    await until(lambda: seen[-1] == 60)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
