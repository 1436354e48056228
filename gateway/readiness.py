"""Which part is up: the database, each service, and the broker, which only delays events."""

from __future__ import annotations

import asyncio
import time

from chassis.db import Database
from chassis.errors import Failure
from chassis.settings import KINDS
from gateway.live.feed import Feed
from gateway.proxy import Proxy

# An answer is good for so long, so that asking often costs nothing.
_FRESH_S = 1.0
_SERVICES = [kind for kind in KINDS if kind != "gateway"]


class Readiness:
    """Asks every part, at most once a second."""

    def __init__(self, db: Database, proxy: Proxy, feed: Feed) -> None:
        self._db = db
        self._proxy = proxy
        self._feed = feed
        self._asked = 0.0
        self._found: dict[str, str] = {}
        self._asking = asyncio.Lock()

    async def parts(self, *, draining: bool) -> tuple[bool, dict[str, str]]:
        """Whether all is well, and what each part is: ``up``, or what is wrong with it."""
        async with self._asking:
            if time.monotonic() - self._asked > _FRESH_S:
                names = ["database", *_SERVICES]
                answers = await asyncio.gather(self._database(), *map(self._proxy.health, _SERVICES))
                self._found = dict(zip(names, answers, strict=True))
                self._asked = time.monotonic()
        shown = {part: problem or "up" for part, problem in self._found.items()}
        shown["nats"] = "up" if self._feed.connected else "away: events come late, nothing is lost"
        if draining:
            shown["gateway"] = "stops"
        return not draining and not any(self._found.values()), shown

    async def _database(self) -> str:
        try:
            await self._db.ping()
        except (Failure, TimeoutError):
            return "does not answer"
        return ""
