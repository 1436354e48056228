"""What one subscriber sees: first what it missed, from the ledgers, then what comes, from the feed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from crm.gateway.v1 import event_pb2 as pb

from chassis.access import Access
from chassis.change import Change
from chassis.checks import check
from chassis.context import Caller
from chassis.db import Database
from chassis.errors import Failure, Reason, Unavailable
from chassis.rows import moment
from chassis.tokens import Sealer
from gateway.errors import internal
from gateway.live import kept, replay
from gateway.live.feed import Feed, Queue
from gateway.live.ledgers import Ledgers
from gateway.live.rendering import event_of
from gateway.live.replay import LEDGERS, Positions
from gateway.live.snapshot import Snapshot
from gateway.live.wanted import Wanted, check_wanted, may_see
from gateway.transcode import Transcoder

CHECKPOINT_S = 15.0
# How long a subscriber's rights hold before they are looked up again.
_RIGHTS_S = 1.0
# A subscriber joins the feed when no more than this is missing; until then it reads ledgers only.
_NEAR = 200
_RENDERED_LIMIT = 256

Recheck = Callable[[], Awaitable[Caller]]


class Ending(Exception):
    """The end of a stream that began well: why, and where to go on."""

    def __init__(self, failure: Failure, replay_id: str) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.replay_id = replay_id


class Subscriptions:
    """Makes the streams of one process."""

    def __init__(self, feed: Feed, ledgers: Ledgers, sealer: Sealer, codec: Transcoder, db: Database) -> None:
        self._db = db
        self._feed = feed
        self._ledgers = ledgers
        self._sealer = sealer
        self._codec = codec
        self._rendered: OrderedDict[tuple[str, int, Access | None], pb.Event] = OrderedDict()

    async def open(self, request: pb.SubscribeRequest, recheck: Recheck, caller: Caller) -> Subscription:
        """A stream for a caller. Raises Invalid for a bad request, Unavailable while the ledgers are not known.

        ``recheck`` looks up whether the caller may still come in; it is asked while the stream lasts.
        """
        check(request)
        if request.subscription_id:
            request = await kept.resolved(self._db, request, caller)
        check_wanted(request, caller)
        wanted = Wanted(request)
        snapshot = None
        if request.replay_id:
            start: Positions | datetime = replay.unseal(self._sealer, caller.tenant, request.replay_id)
        elif request.snapshot:
            start = self._feed.positions()
            snapshot = Snapshot(self._ledgers, wanted, start, self._codec)
        elif request.HasField("start_time"):
            start = moment(request.start_time)
        else:
            start = self._feed.positions()
        return Subscription(self, caller, recheck, request, wanted, start, snapshot)

    def event(self, change: Change, caller: Caller) -> pb.Event:
        """A change as a subscriber sees it."""
        hiding = caller.access if caller.access is not None and caller.access.hides else None
        key = (change.service, change.position, hiding)
        found = self._rendered.get(key)
        if found is None:
            found = self._rendered[key] = event_of(change, self._codec, caller)
            if len(self._rendered) > _RENDERED_LIMIT:
                self._rendered.popitem(last=False)
        return found


class Subscription:
    """One stream of events and checkpoints. Iterate it once; it ends with Ending."""

    def __init__(
        self, home: Subscriptions, caller: Caller, recheck: Recheck, request: pb.SubscribeRequest, wanted: Wanted,
        start: Positions | datetime, snapshot: Snapshot | None,
    ) -> None:  # fmt: skip
        self._home = home
        self._caller = caller
        self._recheck = recheck
        self._request = request
        self._wanted = wanted
        self._start = start
        self._snapshot = snapshot
        self._positions: Positions = {}
        self._checked = time.monotonic()

    @property
    def replay_id(self) -> str:
        """Resumes after what was yielded last; empty before the place is known, and while a snapshot lasts."""
        if self._snapshot is not None or len(self._positions) < len(LEDGERS):
            return ""
        return replay.seal(self._home._sealer, self._caller.tenant, self._positions)

    async def __aiter__(self) -> AsyncIterator[pb.SubscribeResponse]:
        feed, tenant = self._home._feed, self._caller.tenant
        queue: Queue | None = None
        try:
            await self._find_start()
            if self._snapshot is not None:
                async for response in self._records_first(self._snapshot):
                    yield response
            while True:
                async for response in self._missed_first(feed):
                    yield response
                queue = feed.join(tenant)
                async for response in self._replay(feed.positions()):
                    yield response
                yield self._checkpoint()
                async for response in self._live(feed, queue):
                    yield response
                # It was too slow for the queue. What it missed waits in the ledgers, at its own pace.
                feed.leave(tenant, queue)
        except Failure as failure:
            raise Ending(failure, self.replay_id) from failure
        except Exception as error:
            raise Ending(internal(error), self.replay_id) from error
        finally:
            if queue is not None:
                feed.leave(tenant, queue)

    async def _records_first(self, snapshot: Snapshot) -> AsyncIterator[pb.SubscribeResponse]:
        """Every record as it is, then what happened while they were read and they do not show."""
        await snapshot.begin()
        async for event in snapshot.records(lambda: self._caller):
            await self._check_rights(_RIGHTS_S)
            yield pb.SubscribeResponse(event=event)
        async for response in self._replay(await snapshot.end(self._caller.tenant)):
            yield response
        self._snapshot = None
        yield self._checkpoint()

    async def _missed_first(self, feed: Feed) -> AsyncIterator[pb.SubscribeResponse]:
        """Brings a subscriber that begins in the past near the present, before its queue begins to fill."""
        while True:
            now = feed.positions()
            if sum(max(0, now[ledger] - self._positions[ledger]) for ledger in LEDGERS) <= _NEAR:
                return
            async for response in self._replay(now):
                yield response

    async def _find_start(self) -> None:
        if not isinstance(self._start, datetime):
            self._positions = dict(self._start)
            return
        for ledger in LEDGERS:
            page = await self._home._ledgers.read(ledger, self._start, tenant=self._caller.tenant, limit=1)
            self._positions[ledger] = page.changes[0].position - 1 if page.changes else page.position

    async def _replay(self, until: Positions) -> AsyncIterator[pb.SubscribeResponse]:
        """What the ledgers hold up to these positions, by commit time as far as pages allow."""
        pages: dict[str, list[Change]] = {ledger: [] for ledger in LEDGERS}
        behind = {ledger for ledger in LEDGERS if self._positions[ledger] < until[ledger]}
        examined = dict(self._positions)
        while behind or any(pages.values()):
            for ledger in [each for each in behind if not pages[each]]:
                page = await self._home._ledgers.read(ledger, examined[ledger], tenant=self._caller.tenant)
                pages[ledger] = [each for each in page.changes if each.position <= until[ledger]]
                examined[ledger] = page.position
                if page.position >= until[ledger]:
                    behind.discard(ledger)
            waiting = [ledger for ledger in LEDGERS if pages[ledger]]
            if waiting:
                first = min(waiting, key=lambda ledger: pages[ledger][0].commit_time)
                change = pages[first].pop(0)
                if (response := await self._see(change)) is not None:
                    yield response
        for ledger in LEDGERS:
            self._positions[ledger] = max(self._positions[ledger], until[ledger])

    async def _live(self, feed: Feed, queue: Queue) -> AsyncIterator[pb.SubscribeResponse]:
        """What the queue holds, as it comes, until it overflows."""
        checkpoint = time.monotonic() + CHECKPOINT_S
        while True:
            while queue.waiting:
                change = queue.waiting.popleft()
                if change.position <= self._positions[change.service]:
                    continue
                if (response := await self._see(change)) is not None:
                    yield response
            if queue.overflowed:
                return
            if queue.ended:
                text = "this process stops; go on after the replay id on another"
                raise Unavailable(Reason.REASON_UNAVAILABLE, text, retry_s=0.5)
            if time.monotonic() >= checkpoint:
                await self._check_rights(0)
                if not queue.waiting:
                    # Nothing of ours lies between: what the feed handed out went to others.
                    for ledger, position in feed.positions().items():
                        self._positions[ledger] = max(self._positions[ledger], position)
                yield self._checkpoint()
                checkpoint = time.monotonic() + CHECKPOINT_S
            await queue.wait(max(0.0, checkpoint - time.monotonic()))

    async def _see(self, change: Change) -> pb.SubscribeResponse | None:
        """The response that shows a change; None where the subscriber does not want it or may not see it."""
        await self._check_rights(_RIGHTS_S)
        self._positions[change.service] = change.position
        if not self._wanted.takes(change, self._caller) or not may_see(self._caller, change):
            return None
        if self._snapshot is not None and self._snapshot.shows(change):
            return None
        return pb.SubscribeResponse(replay_id=self.replay_id, event=self._home.event(change, self._caller))

    async def _check_rights(self, at_most_s: float) -> None:
        now = time.monotonic()
        if now - self._checked > at_most_s:
            before, self._caller = self._caller, await self._recheck()
            self._checked = now
            if self._caller.access != before.access:
                check_wanted(self._request, self._caller)

    def _checkpoint(self) -> pb.SubscribeResponse:
        return pb.SubscribeResponse(replay_id=self.replay_id)
