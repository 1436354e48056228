"""The consumer: brings events to a service's reactions, and those that cannot be handled to the dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from uuid import UUID

import nats.errors
from nats.aio.msg import Msg
from opentelemetry.trace import SpanKind
from sqlalchemy import Text, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import context, telemetry
from chassis.change import Change
from chassis.db import Database, Tx
from chassis.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Exhausted,
    Failure,
    NotFound,
    Precondition,
    Unavailable,
)
from chassis.events.broker import DEAD_LETTERS, EVENT_ID, STREAM, Broker
from chassis.events.envelope import open_envelope
from chassis.events.pull import Pull
from chassis.events.reactions import Effect, Reaction
from chassis.events.topology import ACK_WAIT_S
from chassis.settings import Settings

BATCH: Final = 256
# Events of one tenant that share a transaction. Its size is bought with a repetition, one by one, when one fails.
GROUP: Final = 50
# After a group its tenant rests for so long unless a full group waits: an event after a quiet moment is handled at
# once, those of a busy one together.
GATHER_S: Final = 0.02
# Transactions at once, each of another tenant: few, since they share the pool with the calls that are served.
LANES: Final = 4
MAX_DELIVERIES: Final = 8
REACTION_LIMIT_S: Final = 20.0
ERROR_HEADER: Final = "rapport-error"
_LONGEST_RETRY_S: Final = 300.0
_STILL_HERE_S: Final = ACK_WAIT_S / 3

# NotFound and Precondition may come right once the events before this one have arrived.
_TRANSIENT: Final = (Unavailable, Aborted, DeadlineExceeded, Exhausted, Cancelled, NotFound, Precondition)

ENTER = text(
    "INSERT INTO inbox (tenant_id, consumer, event_id)"
    " SELECT :tenant, mark.consumer, mark.event_id"
    " FROM unnest(:consumers, :events) AS mark (consumer, event_id)"
    " ON CONFLICT DO NOTHING RETURNING consumer, event_id"
).bindparams(
    bindparam("tenant", type_=Uuid),
    bindparam("consumers", type_=ARRAY(Text)),
    bindparam("events", type_=ARRAY(Uuid)),
)

Fresh = set[tuple[str, UUID]]
log = telemetry.logger()


@dataclass(eq=False)
class Delivery:
    """A message in hand: the change it carries, or why it carries none."""

    message: Msg
    change: Change | None = None
    error: Exception | None = None
    taken: float = field(default_factory=time.monotonic)
    begun: bool = False

    @cached_property
    def count(self) -> int:
        """How often the broker has delivered it, this time included."""
        return self.message.metadata.num_delivered


class DeliveredTooOften(Exception):
    """Every attempt to handle the event ended without an answer, perhaps with the process."""


class Consumer:
    """Runs a service's reactions on the events that its durable consumer brings.

    Events of one tenant are handled one after the other in groups that share a transaction; a group in which
    one fails is rolled back and repeated one by one. An event is acknowledged after its commit, so it may come
    again. While the service's own database is away nothing more is pulled, and what is in hand waits for it.

    ``on_commit`` is called after each transaction in which a reaction acted: it may have changed records, which the
    relay publishes. ``gather_s`` is how long a tenant rests after a group, unless a full one waits.
    """

    def __init__(
        self,
        service: str,
        db: Database,
        settings: Settings,
        reactions: Iterable[Reaction],
        *,
        on_commit: Callable[[], None] = lambda: None,
        gather_s: float = GATHER_S,
        first_retry_s: float = 2.0,
    ) -> None:
        self._service = service
        self._db = db
        self._reactions = list(reactions)
        if not self._reactions:
            raise ValueError(f"{service} reacts to nothing: it has no durable consumer")
        self._on_commit = on_commit
        self._gather_s = gather_s
        self._first_retry_s = first_retry_s
        self._broker = Broker(settings.nats_url.get_secret_value(), f"{service} consumer")
        self._pull = Pull(self._broker, STREAM, service, self._take, self._room)
        self._held: set[Delivery] = set()
        self._queues: dict[UUID | None, deque[Delivery]] = {}
        self._slots = asyncio.Semaphore(LANES)
        self._database_away = False
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._matching: dict[str, list[Reaction]] = {}

    @property
    def connected(self) -> bool:
        """Whether NATS answers."""
        return self._broker.connected

    @property
    def held(self) -> int:
        """How many events are in hand and not settled."""
        return len(self._held)

    async def run(self) -> None:
        """Consumes until `stop`, or until it is cancelled, which is safe at any point.

        Raises an ExceptionGroup with what was no reaction's fault.
        """
        self._ended.clear()
        self._broker.open()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                leases = self._tasks.create_task(self._say_still_here(), name=f"{self._service} consumer leases")
                await self._pull.run(BATCH)
                leases.cancel()
                await self._hand_back()
        finally:
            await self._broker.close()
            self._ended.set()

    async def stop(self, grace_s: float = 15.0) -> None:
        """Stops pulling, hands back what has not been begun, and waits for the rest and the end of `run`.

        Waits no longer than ``grace_s``; what is not settled then may be cancelled and comes again.
        """
        self._stopping = True
        self._pull.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._ended.wait()

    async def _hand_back(self) -> None:
        for delivery in [each for each in self._held if not each.begun]:
            await self._answer(delivery, "nak")

    # ---- arrival -------------------------------------------------------------------------------------------

    def _room(self) -> int:
        return 0 if self._database_away else BATCH - len(self._held)

    def _take(self, message: Msg) -> None:
        delivery = Delivery(message)
        try:
            if delivery.count > MAX_DELIVERIES:
                raise DeliveredTooOften
            delivery.change = open_envelope(message)
        except (ValueError, DeliveredTooOften) as error:
            delivery.error = error
        self._held.add(delivery)
        tenant = delivery.change.tenant if delivery.change else None
        if tenant in self._queues:
            self._queues[tenant].append(delivery)
        elif not self._stopping:
            self._queues[tenant] = deque([delivery])
            self._tasks.create_task(self._lane(tenant), name=f"{self._service} consumer lane")

    async def _lane(self, tenant: UUID | None) -> None:
        """Settles a tenant's events until there are no more; without a tenant, those that cannot be read."""
        queue = self._queues[tenant]
        while queue and not self._stopping:
            async with self._slots:
                await self._settle(_next_group(queue))
            if len(queue) < GROUP:
                await asyncio.sleep(self._gather_s)
        del self._queues[tenant]

    async def _settle(self, group: list[Delivery]) -> None:
        error = group[0].error or await self._attempt(group)
        if error is None:
            for delivery in group:
                await self._answer(delivery, "ack")
        elif len(group) > 1:
            for delivery in group:
                await self._settle([delivery])
        elif _is_transient(error):
            await self._answer(group[0], "nak", delay_s=self._retry_delay_s(group[0].count))
        else:
            await self._bury(group[0], error)

    async def _attempt(self, group: Sequence[Delivery]) -> Exception | None:
        """Handles a group; returns what went wrong. Where the database was away it waits and tries again."""
        while True:
            try:
                await self._apply([each.change for each in group if each.change])
            except Exception as error:
                if _is_transient(error) and await self._database_was_away():
                    continue
                log.warning("a reaction failed", events=len(group), exc_info=error)
                return error
            return None

    async def _database_was_away(self) -> bool:
        """Whether the database does not answer; returns when it does again."""
        was_away = False
        while not self._stopping and not await self._database_answers():
            was_away = self._database_away = True
            await asyncio.sleep(0.5)
        self._database_away = False
        self._pull.poke()
        return was_away

    async def _database_answers(self) -> bool:
        try:
            await self._db.ping()
        except (Failure, OSError, TimeoutError):
            return False
        return True

    # ---- effect --------------------------------------------------------------------------------------------

    async def _apply(self, changes: Sequence[Change]) -> None:
        async with self._db.write(changes[0].tenant) as tx:
            fresh = await self._enter(changes, tx)
            acted = bool(fresh)
            for change in changes:
                await self._react(change, tx, fresh)
        if acted:
            self._on_commit()

    async def _enter(self, changes: Sequence[Change], tx: Tx) -> Fresh:
        """Enters the events in the inbox of each reaction that acts; returns the entries that were not there."""
        entries = [
            (reaction.name, change.event_id)
            for change in changes
            for reaction in self._for(change.type)
            if reaction.effect is Effect.ACT
        ]
        if not entries:
            return set()
        rows = await tx.rows(
            ENTER, {"consumers": [name for name, _ in entries], "events": [event for _, event in entries]}
        )
        return {(row.consumer, row.event_id) for row in rows}

    async def _react(self, change: Change, tx: Tx, fresh: Fresh) -> None:
        call = context.Call(
            caller=context.Caller(change.tenant, f"service:{self._service}", frozenset({"*"}), issuer=self._service),
            method=change.type,
            deadline=time.monotonic() + REACTION_LIMIT_S,
            request_id=change.event_id.hex,
            cause_event_id=change.event_id,
        )
        attributes = {"messaging.system": "nats", "messaging.message.id": str(change.event_id)}
        with (
            telemetry.span(
                f"consume {change.type}",
                kind=SpanKind.CONSUMER,
                parent=change.delivery_context,
                attributes=attributes,
            ),
            context.enter(call),
        ):
            for reaction in self._for(change.type):
                if reaction.effect is Effect.ACT:
                    entry = (reaction.name, change.event_id)
                    if entry not in fresh:
                        continue
                    fresh.discard(entry)  # the same event may be in the group twice
                await reaction.handler(change, tx)

    def _for(self, event_type: str) -> list[Reaction]:
        found = self._matching.get(event_type)
        if found is None:
            found = [each for each in self._reactions if each.matches(event_type)]
            self._matching[event_type] = found
        return found

    # ---- answer --------------------------------------------------------------------------------------------

    def _retry_delay_s(self, count: int) -> float:
        growing = self._first_retry_s * 2.0 ** (count - 1)
        return min(_LONGEST_RETRY_S, growing) * random.uniform(0.75, 1.25)

    async def _answer(self, delivery: Delivery, answer: str, *, delay_s: float | None = None) -> None:
        """Tells the broker. An answer that is lost brings the event again, which does no harm."""
        message = delivery.message
        with contextlib.suppress(nats.errors.Error, OSError):
            if answer == "nak":
                await message.nak(delay_s)
            elif answer == "term":
                await message.term()
            else:
                await message.ack()
        self._release(delivery)

    async def _bury(self, delivery: Delivery, error: Exception) -> None:
        """Keeps the event and the reason with the dead letters, then has the broker forget it.

        Where that fails the event is left to come again when the broker misses an answer.
        """
        message = delivery.message
        headers = dict(message.headers or {})
        headers[ERROR_HEADER] = telemetry.error_name(error)
        headers[EVENT_ID] = f"{self._service}:{headers.get(EVENT_ID, message.metadata.sequence.stream)}"
        subject = f"{DEAD_LETTERS.lower()}.{self._service}.{message.subject}"
        try:
            await self._broker.jetstream.publish(subject, message.data, timeout=5, stream=DEAD_LETTERS, headers=headers)
        except (nats.errors.Error, OSError, TimeoutError) as failure:
            log.warning("a dead letter could not be kept", exc_info=failure)
            self._release(delivery)
            return
        log.error(
            "an event went to the dead letters",
            event_id=headers.get("ce-id", ""),
            event_type=headers.get("ce-type", ""),
            error=headers[ERROR_HEADER],
        )
        await self._answer(delivery, "term")

    def _release(self, delivery: Delivery) -> None:
        self._held.discard(delivery)
        self._pull.poke()

    async def _say_still_here(self) -> None:
        """Asks the broker for patience with what has been in hand for long."""
        while True:
            await asyncio.sleep(_STILL_HERE_S / 2)
            old = time.monotonic() - _STILL_HERE_S
            for delivery in [each for each in self._held if each.taken < old]:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await delivery.message.in_progress()


def _next_group(queue: deque[Delivery]) -> list[Delivery]:
    """The next events that may share a transaction; one that has failed before goes alone."""
    group: list[Delivery] = []
    while queue and len(group) < GROUP:
        alone = queue[0].error is not None or queue[0].count > 2
        if alone and group:
            break
        queue[0].begun = True
        group.append(queue.popleft())
        if alone:
            break
    return group


def _is_transient(error: Exception) -> bool:
    return isinstance(error, (*_TRANSIENT, OSError, TimeoutError, ConnectionError))
