"""Admission: so many calls at once, each tenant its share of them, and a quick refusal for the rest.

A bound on calls in flight, with a short wait, keeps the queue where it can be seen; what waits longer would be answered
late and cost those behind it (B. Maurer, "Fail at Scale", ACM Queue 13/8, 2015). Tenants take turns at free places, and
none may hold more than its part of them while others come (max-min fairness).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable
from typing import Final

from chassis.errors import Exhausted, Reason

# How long a call may wait for its turn before it is refused, and how many may, as a part of the limit.
WAIT_S: Final = 0.02
_QUEUE: Final = 0.25
# When to come again, as refusals say. Whole seconds are all that Retry-After knows.
RETRY_S: Final = 1.0
# A tenant counts as active for so long after its last call.
_ACTIVE_S: Final = 1.0
# Below this part of the limit nobody is in anybody's way, and shares do not matter.
_QUIET: Final = 0.25
# The limit is looked at so often, from so many calls at least, and never falls below the floor.
_LOOK_S: Final = 0.25
_LOOK_AT: Final = 8
_FLOOR: Final = 16
# Half of the calls shall take no longer.
_TARGET_S: Final = 0.2


class Gate:
    """Lets ``limit`` calls in at once. A few more may wait for a moment; the others are refused at once."""

    def __init__(self, limit: int) -> None:
        self._ceiling = limit
        self.taken = 0
        self._set_limit(limit)
        self._took: list[float] = []
        self._looked = 0.0
        self._was_full = False
        self.refused = 0
        self._held: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._waiters = 0
        self._seen: dict[Hashable, float] = {}
        self._active = 0
        self._counted = 0.0

    def _set_limit(self, limit: float) -> None:
        self.limit = int(min(self._ceiling, max(_FLOOR, limit)))
        self.queue = max(1, int(self.limit * _QUEUE))

    def closed(self, tenant: Hashable, coming: int = 0, *, reads: bool = False) -> bool:
        """Whether a call of this tenant would be refused at once.

        ``coming`` are calls that are let through but have not asked for a place yet, with those that have. ``reads``
        says that the call may be repeated at no risk: such calls fill half of the queue only, and so go first.
        """
        queue = max(1, self.queue // 2) if reads else self.queue
        if self._waiters == 0 and coming < self.limit + queue:
            return False
        self._saw(tenant)
        waiting = len(self._waiting.get(tenant, ()))
        if waiting >= max(1, queue // max(1, self._active)) or self._waiters >= queue:
            return True
        over = self._held.get(tenant, 0) >= self._share()
        return coming >= (self.limit + queue) * (1 if over else 2)

    def enter(self, tenant: Hashable, *, reads: bool = False) -> _Pass:
        """A place, for the length of an ``async with`` block. Raises Exhausted where there is none in time."""
        return _Pass(self, tenant, reads)

    def refusal(self) -> Exhausted:
        """What a call is told for which there is no place."""
        self.refused += 1
        return Exhausted(Reason.REASON_OVERLOADED, "too many calls at once; try again", retry_s=RETRY_S)

    async def take(self, tenant: Hashable, *, reads: bool = False) -> None:
        """Takes a place; ``give_back`` must follow. Raises Exhausted where there is none in time."""
        self._saw(tenant)
        if tenant not in self._waiting and self._may_enter(tenant):
            self._admit(tenant)
            return
        if self.closed(tenant, reads=reads):
            raise self.refusal()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._waiters += 1
        timer = asyncio.get_running_loop().call_later(WAIT_S, _expire, turn)
        try:
            await turn
        except TimeoutError:
            raise self.refusal() from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # The place came together with the cancellation.
                self.give_back(tenant, None)
            raise
        finally:
            timer.cancel()
            self._forget(tenant, turn)

    def give_back(self, tenant: Hashable, took_s: float | None) -> None:
        """Frees a place, after a call that took so long if it went well, and lets in who is next."""
        if took_s is not None:
            self._adapt(took_s)
        self.taken -= 1
        left = self._held[tenant] - 1
        if left:
            self._held[tenant] = left
        else:
            del self._held[tenant]
        if self._waiters:
            self._let_in()

    def _adapt(self, took_s: float) -> None:
        self._took.append(took_s)
        self._was_full = self._was_full or self.taken >= self.limit
        now = time.monotonic()
        if now - self._looked < _LOOK_S or len(self._took) < _LOOK_AT:
            return
        median = sorted(self._took)[len(self._took) // 2]
        if median > _TARGET_S:
            self._set_limit(self.limit * max(0.5, _TARGET_S / median))
        elif self._was_full:
            self._set_limit(self.limit * 1.1 + 1)
        self._took, self._looked, self._was_full = [], now, False

    def _let_in(self) -> None:
        """Goes once round the tenants that wait; each is let in once at most, and then stands last."""
        for tenant in list(self._waiting):
            if self.taken >= self.limit:
                return
            if not self._may_enter(tenant):
                continue
            queue = self._waiting.pop(tenant)
            while queue:
                turn = queue.popleft()
                self._waiters -= 1
                if not turn.done():
                    self._admit(tenant)
                    turn.set_result(None)
                    break
            if queue:
                self._waiting[tenant] = queue

    def _may_enter(self, tenant: Hashable) -> bool:
        if self.taken >= self.limit:
            return False
        return self.taken < self.limit * _QUIET or self._held.get(tenant, 0) < self._share()

    def _admit(self, tenant: Hashable) -> None:
        self.taken += 1
        self._held[tenant] = self._held.get(tenant, 0) + 1

    def _forget(self, tenant: Hashable, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._waiters -= 1
            if not queue:
                del self._waiting[tenant]

    def _share(self) -> int:
        return max(1, self.limit // max(1, self._active))

    def _saw(self, tenant: Hashable) -> None:
        now = time.monotonic()
        self._active += tenant not in self._seen
        self._seen[tenant] = now
        if now - self._counted > _ACTIVE_S / 10:
            self._seen = {each: at for each, at in self._seen.items() if now - at < _ACTIVE_S}
            self._active = len(self._seen)
            self._counted = now


class _Pass:
    __slots__ = ("_began", "_gate", "_reads", "_tenant")

    def __init__(self, gate: Gate, tenant: Hashable, reads: bool) -> None:
        self._gate = gate
        self._reads = reads
        self._tenant = tenant
        self._began = 0.0

    async def __aenter__(self) -> None:
        await self._gate.take(self._tenant, reads=self._reads)
        self._began = time.monotonic()

    async def __aexit__(self, error: object, *_: object) -> None:
        # A call that failed tells how long its failure took, not how busy we are.
        self._gate.give_back(self._tenant, None if error else time.monotonic() - self._began)


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
