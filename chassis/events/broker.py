"""A connection to NATS that comes back for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from chassis import telemetry

STREAM = "CRM"
DEAD_LETTERS = "CRM_DLQ"
SUBJECTS = "crm.>"
DEAD_LETTER_SUBJECTS = "crm_dlq.>"
EVENT_ID = "Nats-Msg-Id"
TENANT = "rapport-tenant"
POSITION = "rapport-position"
SOURCE = "ce-source"
TRACEPARENT = "traceparent"

_RETRY_S = 0.5
_PAUSE_S = 0.2
log = telemetry.logger()


class Broker:
    """One connection, kept up by a task of its own between `open` and `close`.

    ``epoch`` grows whenever the connection is lost: what was asked or found out before may hold no longer.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._loss = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.epoch = 0

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as the client knows."""
        return self._up.is_set()

    def open(self) -> None:
        """Begins to connect, and goes on for ever. Returns at once."""
        self._keeper = asyncio.create_task(self._keep(), name=f"nats {self._name}")

    async def wait(self) -> None:
        """Returns when there is a connection."""
        await self._up.wait()

    async def lost(self, epoch: int) -> None:
        """Returns when the connection of that epoch is gone."""
        while self.epoch == epoch:
            await self._loss.wait()

    async def follow(
        self, subjects: Iterable[str], take: Callable[[Msg], Awaitable[None]],
        turned: Callable[[bool], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Hands what comes on these subjects to ``take``, with every connection anew, until it is cancelled.

        ``turned`` is told whenever that begins (True) or stops (False).
        """
        while True:
            await self.wait()
            client, epoch, following = self.client, self.epoch, list[Subscription]()
            try:
                for each in subjects:
                    following.append(await client.subscribe(each, cb=take))
                await client.flush(2)
                if epoch == self.epoch:
                    turned(True)
                    try:
                        await self.lost(epoch)
                    finally:
                        turned(False)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.debug("subjects cannot be followed", connection=self._name, exc_info=error)
                await asyncio.sleep(_PAUSE_S)
            # The client would take them up again with its next connection, beside those that are made then.
            for subscription in following:
                with contextlib.suppress(nats.errors.Error):
                    await subscription.unsubscribe()

    async def close(self) -> None:
        """Ends the connection after sending what is buffered."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._up.is_set():
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await self.client.flush(1)
        self._lost()
        if hasattr(self, "client"):
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.client.close()

    async def _keep(self) -> None:
        """The client reconnects by itself but closes for good on some errors, a refused token for one."""
        while True:
            self._closed.clear()
            self.client = Client()
            try:
                await self._connect()
                self._restored()
                await self._closed.wait()
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.debug("nats cannot be reached", exc_info=error)
            self._lost()
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> None:
        async def lost() -> None:
            self._lost()

        async def restored() -> None:
            self._restored()

        async def closed() -> None:
            self._closed.set()

        async def failed(error: Exception) -> None:
            log.debug("nats reports an error", exc_info=error)

        await self.client.connect(
            self._url,
            name=self._name,
            error_cb=failed,
            disconnected_cb=lost,
            reconnected_cb=restored,
            closed_cb=closed,
            connect_timeout=2,
            reconnect_time_wait=_RETRY_S,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=10,
            max_outstanding_pings=2,
            drain_timeout=20,
            pending_size=2 * 1024 * 1024,
        )
        # One for the connection, not one a call: it keeps what is published and not acknowledged.
        self.jetstream: JetStreamContext = self.client.jetstream(timeout=2)

    def _restored(self) -> None:
        self._up.set()
        log.info("nats is connected", connection=self._name)

    def _lost(self) -> None:
        self.epoch += 1
        self._loss.set()
        self._loss = asyncio.Event()
        if self._up.is_set():
            self._up.clear()
            log.warning("nats is away", connection=self._name)
