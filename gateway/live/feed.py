"""One tail a process: it judges gaps once and hands each change to whoever subscribed in its tenant.

The broker is only the fast road. What it does not bring in time is read from the ledger it came from, so a lost
message, a broker that is away or one whose store was wiped costs delay and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from uuid import UUID

from chassis import telemetry
from chassis.change import Change
from chassis.errors import Failure, Reason, Unavailable
from chassis.events import Arrival, Tail
from gateway.live.ledgers import Ledgers, Page
from gateway.live.replay import LEDGERS, Positions

# How long a gap may close by itself before the ledger is read.
_GAP_S = 0.2
# How often the ledgers are read: while the broker is away, and otherwise to find what it lost at the end.
_AWAY_S = 1.0
_CHECK_S = 10.0
# Changes that wait for one subscriber; it is too slow where there are more.
QUEUE_LIMIT = 1_000
_AHEAD_LIMIT = 10_000

log = telemetry.logger()


class Queue:
    """The changes that wait for one subscriber."""

    def __init__(self) -> None:
        self.waiting: deque[Change] = deque()
        self.overflowed = False
        self.ended = False
        self._stirred = asyncio.Event()

    def put(self, change: Change) -> None:
        """Adds a change; one too many marks the subscriber as too slow."""
        if len(self.waiting) >= QUEUE_LIMIT:
            self.overflowed = True
        elif not self.overflowed:
            self.waiting.append(change)
        self._stirred.set()

    def end(self) -> None:
        """Tells the subscriber that this process stops."""
        self.ended = True
        self._stirred.set()

    async def wait(self, timeout_s: float) -> None:
        """Returns when something came, or after ``timeout_s``."""
        self._stirred.clear()
        if self.waiting or self.overflowed or self.ended:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()
        except TimeoutError:
            return


class Feed:
    """The changes of every ledger as they are committed, and the subscribers they go to."""

    def __init__(self, nats_url: str, ledgers: Ledgers) -> None:
        self._tail = Tail(nats_url, self._arrived, self._turned)
        self._queues: dict[UUID, set[Queue]] = {}
        self._followers = {ledger: _Follower(ledger, self, ledgers) for ledger in LEDGERS}
        self._closing = False

    @property
    def connected(self) -> bool:
        """Whether the broker brings events now; without it they come by polling."""
        return self._tail.connected

    @property
    def watched(self) -> bool:
        """Whether anyone subscribed."""
        return bool(self._queues)

    async def run(self) -> None:
        """Follows until it is cancelled."""
        # Its reads belong to no call: an unrecorded trace keeps them from being traced one by one.
        nobody = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
        with telemetry.span("feed", parent=nobody):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tail.run())
                for follower in self._followers.values():
                    group.create_task(follower.run())

    def positions(self) -> Positions:
        """How far each ledger has been handed out. Raises Unavailable while one is not known yet."""
        found = {ledger: follower.position for ledger, follower in self._followers.items()}
        unknown = [ledger for ledger, position in found.items() if position is None]
        if unknown:
            text = f"the events of {', '.join(unknown)} cannot be followed yet; try again"
            raise Unavailable(Reason.REASON_UNAVAILABLE, text, retry_s=1)
        return {ledger: position for ledger, position in found.items() if position is not None}

    def join(self, tenant: UUID) -> Queue:
        """A queue that gets the tenant's changes from now on; the same moment's positions are `positions`."""
        queue = Queue()
        if self._closing:
            queue.end()
        self._queues.setdefault(tenant, set()).add(queue)
        return queue

    def leave(self, tenant: UUID, queue: Queue) -> None:
        """Ends what `join` began."""
        queues = self._queues.get(tenant, set())
        queues.discard(queue)
        if not queues:
            self._queues.pop(tenant, None)

    def close(self) -> None:
        """Tells every subscriber to go elsewhere."""
        self._closing = True
        for queues in self._queues.values():
            for queue in queues:
                queue.end()

    def hand_out(self, change: Change | Arrival) -> None:
        """Puts a change into the queues of its tenant; where there are none it is not even opened.

        Raises ValueError for an arrival that cannot be read.
        """
        if queues := self._queues.get(change.tenant):
            opened = change.open() if isinstance(change, Arrival) else change
            for queue in queues:
                queue.put(opened)

    def _arrived(self, change: Change | Arrival) -> None:
        follower = self._followers.get(change.service)
        if follower is not None:
            follower.arrived(change)

    def _turned(self, _on: bool) -> None:
        for follower in self._followers.values():
            follower.look()


class _Follower:
    """One ledger: the last position handed out, and what came too early."""

    def __init__(self, ledger: str, feed: Feed, ledgers: Ledgers) -> None:
        self.position: int | None = None
        self._ledger = ledger
        self._feed = feed
        self._ledgers = ledgers
        self._ahead: dict[int, Change | Arrival] = {}
        self._look = asyncio.Event()

    def look(self) -> None:
        """Has the ledger read soon."""
        self._look.set()

    def arrived(self, change: Change | Arrival) -> None:
        """Hands a change out where it is the next; keeps it where some are missing before it."""
        if self.position is None or change.position > self.position + 1:
            if len(self._ahead) < _AHEAD_LIMIT:
                self._ahead[change.position] = change
            self.look()
        elif change.position == self.position + 1:
            self._take(change)
            self._take_followers()

    async def run(self) -> None:
        """Reads the ledger where the broker left a gap, and now and then."""
        while True:
            try:
                await self._catch_up()
            except Failure as failure:
                log.debug("a ledger cannot be read", ledger=self._ledger, exc_info=failure)
                await asyncio.sleep(_AWAY_S)
                continue
            try:
                async with asyncio.timeout(_CHECK_S if self._feed.connected else _AWAY_S):
                    await self._look.wait()
                await asyncio.sleep(_GAP_S)
            except TimeoutError:
                pass

    async def _catch_up(self) -> None:
        self._look.clear()
        if self.position is None or not self._feed.watched:
            last = await self._last_position()
            if self.position is None or not self._feed.watched:
                # Nobody waits for what lies between: only the place matters.
                self.position = max(last, self.position or 0)
                self._take_followers()
                return
        while True:
            page = await self._read(self.position)
            for change in page.changes:
                if change.position > self.position:
                    self._take(change)
            self.position = max(self.position, page.position)
            self._take_followers()
            if self.position >= page.last_position:
                return

    async def _last_position(self) -> int:
        return (await self._ledgers.read(self._ledger, 2**62, tenant=None, limit=1)).last_position

    async def _read(self, after: int) -> Page:
        return await self._ledgers.read(self._ledger, after, tenant=None)

    def _take(self, change: Change | Arrival) -> None:
        try:
            self._feed.hand_out(change)
        except ValueError as error:
            log.warning("an event cannot be read", ledger=self._ledger, position=change.position, exc_info=error)
            self.look()  # the ledger has it
            return
        self.position = change.position

    def _take_followers(self) -> None:
        assert self.position is not None
        for stale in [each for each in self._ahead if each <= self.position]:
            del self._ahead[stale]
        while (change := self._ahead.pop(self.position + 1, None)) is not None:
            self._take(change)
