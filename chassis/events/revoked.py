"""Whose tokens hold no longer: told by every process to itself, from the events of those who give and take them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from chassis import telemetry
from chassis.contract import load
from chassis.events.broker import Broker
from chassis.events.reactions import subject_of

log = telemetry.logger()


class Revoked:
    """Follows the events that the contract marks with ``revokes``.

    ``revoke`` gets a record's id and when it was revoked, as a Unix time in seconds. What is published while the
    broker is away comes late or never: a token that is out already lives its minute then.
    """

    def __init__(self, nats_url: str, revoke: Callable[[str, float], None]) -> None:
        self._broker = Broker(nats_url, "revoked")
        self._revoke = revoke

    async def run(self) -> None:
        """Follows until it is cancelled."""
        self._broker.open()
        try:
            while True:
                await self._broker.wait()
                await self._follow(self._broker.epoch)
        finally:
            await self._broker.close()

    async def _follow(self, epoch: int) -> None:
        client, following = self._broker.client, list[Subscription]()
        try:
            for type in load().revoking_types:
                following += [await client.subscribe(subject_of(type, "*"), cb=self._take)]
            await client.flush(2)
            await self._broker.lost(epoch)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("revocations cannot be followed", exc_info=error)
            await asyncio.sleep(0.2)
        # The client would take them up again with its next connection, beside those that we make then.
        for subscription in following:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        try:
            self._revoke(headers["ce-subject"], datetime.fromisoformat(headers["ce-time"]).timestamp())
        except (KeyError, ValueError) as error:
            log.warning("a revocation cannot be read", subject=message.subject, exc_info=error)
