"""The live feed: every event as it is published, without memory."""

from __future__ import annotations

from collections.abc import Callable

from nats.aio.msg import Msg

from chassis import telemetry
from chassis.events.broker import SUBJECTS, Broker
from chassis.events.envelope import Arrival, read_envelope

log = telemetry.logger()


class Tail:
    """Follows every service's events from now on.

    ``arrived`` gets each change, unopened, in the order in which it was published; one may come twice, and some may
    be missing: compare positions. ``turned`` is told whenever the feed begins (True) or stops (False): what was
    published in between has been missed. Both are called from the loop and must return at once.
    """

    def __init__(
        self,
        nats_url: str,
        arrived: Callable[[Arrival], None],
        turned: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._broker = Broker(nats_url, "tail")
        self._arrived = arrived
        self._following = False
        self._turned = turned

    @property
    def connected(self) -> bool:
        """Whether events flow."""
        return self._following

    async def run(self) -> None:
        """Follows until it is cancelled."""
        self._broker.open()
        try:
            await self._broker.follow([SUBJECTS], self._take, self._turn)
        finally:
            await self._broker.close()

    def _turn(self, following: bool) -> None:
        self._following = following
        self._turned(following)

    async def _take(self, message: Msg) -> None:
        try:
            arrival = read_envelope(message)
        except ValueError as error:
            log.warning("an event cannot be read", subject=message.subject, exc_info=error)
            return
        self._arrived(arrival)
