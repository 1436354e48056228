"""A continuous pull from one durable consumer (NATS ADR-37).

nats-py's own `fetch` stalls for seconds on a request that the server has forgotten (nats.py #986).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from chassis.events.broker import Broker

EXPIRES_S: Final = 30
HEARTBEAT_S: Final = 3
_RETRY_S: Final = 0.3
_NANO: Final = 1_000_000_000

_HEARTBEAT, _ENDED = "100", "408"


class Pull:
    """Keeps requests for messages open at the server while there is room for more.

    ``arrived`` gets each message; ``room`` says how many can be taken at the moment, those asked for included.
    It waits, and tries again, while the server is away or has no such consumer.
    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        durable: str,
        arrived: Callable[[Msg], None],
        room: Callable[[], int],
    ) -> None:
        self._broker = broker
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._arrived = arrived
        self._room = room
        self._changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._stopping = False
        self._stop = asyncio.Event()
        self._enough = 0
        self._forget()

    def poke(self) -> None:
        """Says that there is more room than before."""
        if self._outstanding <= self._enough:
            self._changed.set()

    async def run(self, batch: int) -> None:
        """Pulls until `stop`, up to ``batch`` messages at a time, asking again when half of them have come."""
        self._enough = batch // 2
        while await self._connection():
            epoch = self._broker.epoch
            try:
                await self._follow(epoch, batch)
            except (nats.errors.Error, OSError, TimeoutError):
                self._refused = True
            if self._stopping:
                break
            await self._drop()
            if self._refused:
                await asyncio.sleep(_RETRY_S)
        await self._finish()

    def stop(self) -> None:
        """Lets `run` end the requests and return when what the server has sent already has arrived."""
        self._stopping = True
        self._stop.set()
        self._changed.set()

    async def _connection(self) -> bool:
        """Waits for a connection; False where it is to stop, with one or without."""
        waits = [asyncio.ensure_future(self._broker.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return not self._stopping

    async def _finish(self) -> None:
        if self._subscription is not None and self._broker.connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        self._outstanding = 0
        self._heard = time.monotonic()
        self._refused = False

    async def _follow(self, epoch: int, batch: int) -> None:
        """Asks and listens on a fresh inbox, until the requests made there are of no use any more."""
        self._forget()
        inbox = self._broker.client.new_inbox()
        self._subscription = await self._broker.client.subscribe(inbox, cb=self._take)
        while self._broker.epoch == epoch and not self._refused and not self._stopping:
            self._changed.clear()
            wanted = min(batch, self._room()) - self._outstanding
            if wanted >= self._enough or (wanted > 0 and self._outstanding == 0):
                await self._ask(inbox, wanted)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            if self._outstanding and time.monotonic() - self._heard > 2 * HEARTBEAT_S + 1:
                return

    async def _ask(self, inbox: str, count: int) -> None:
        if not self._outstanding:
            self._heard = time.monotonic()
        self._outstanding += count
        request = {"batch": count, "expires": EXPIRES_S * _NANO, "idle_heartbeat": HEARTBEAT_S * _NANO}
        await self._broker.client.publish(self._subject, json.dumps(request).encode(), reply=inbox)

    async def _drop(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def _take(self, message: Msg) -> None:
        self._heard = time.monotonic()
        status = None if message.reply else (message.headers or {}).get("Status")
        if status is None:
            self._outstanding = max(0, self._outstanding - 1)
            self._arrived(message)
            self.poke()
        elif status == _ENDED:
            pending = (message.headers or {}).get("Nats-Pending-Messages", "")
            self._outstanding = max(0, self._outstanding - int(pending)) if pending.isdigit() else 0
        elif status != _HEARTBEAT:
            # 409: the consumer was deleted, its leader changed, the server stops … 503: there is none.
            self._refused = True
        if status not in (None, _HEARTBEAT):
            self._changed.set()
