"""Whose tokens hold no longer: told by every process to itself, from the events of those who give and take them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from nats.aio.msg import Msg

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
            await self._broker.follow([subject_of(each, "*") for each in load().revoking_types], self._take)
        finally:
            await self._broker.close()

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        try:
            self._revoke(headers["ce-subject"], datetime.fromisoformat(headers["ce-time"]).timestamp())
        except (KeyError, ValueError) as error:
            log.warning("a revocation cannot be read", subject=message.subject, exc_info=error)
