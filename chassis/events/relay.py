"""The relay: gives a ledger's rows their positions and publishes them in that order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from operator import itemgetter
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from opentelemetry.trace import Span, SpanKind

from chassis import telemetry
from chassis.db import Database
from chassis.events.broker import EVENT_ID, STREAM, Broker
from chassis.events.envelope import seal
from chassis.events.leadership import Connection, candidate, hold, lock_key, working
from chassis.events.publish import Ack, Publisher
from chassis.events.statements import AGE_LIMIT, BEFORE, MOVE, NUMBER, SET_BACK, STATE, UNPUBLISHED
from chassis.settings import Settings
from chassis.sql import Row

WINDOW: Final = 256
POLL_S: Final = 0.5
# How long the watermark may lag behind what the stream has acknowledged; so much is published twice after a crash.
RECORD_S: Final = 0.1
_RETRY_S: Final = 0.5
_HEADROOM_BYTES: Final = 16 * 1024
# The driver has no common class. InternalClientError: a connection that the server closed is used once more.
_DATABASE_AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

log = telemetry.logger()


class Published(NamedTuple):
    """A row and where the stream keeps it."""

    row: Row
    ack: Ack


@dataclass(frozen=True)
class State:
    """How far a ledger is numbered and published, and where the stream keeps what was published last."""

    last_position: int
    watermark: int
    stream_seq: int
    event_id: UUID | None


class Relay:
    """Publishes one service's ledger. Every replica runs one; the holder of an advisory lock works.

    It numbers rows whether NATS is there or not, and publishes what is above its watermark when it can. Rows
    may be published twice: by a leader that was stopped and wakes, after a lost acknowledgement, and all of them
    again after the stream lost what it had.
    """

    def __init__(self, db: Database, settings: Settings) -> None:
        self._service = db.schema.name
        self._batch = settings.relay_batch
        if settings.worker_database_url is None:
            raise ValueError("a relay needs RAPPORT_WORKER_DATABASE_URL")
        self._dsn = settings.worker_database_url.get_secret_value()
        self._leader_dsn = settings.leader_dsn.get_secret_value() if settings.leader_dsn else self._dsn
        self._broker = Broker(settings.nats_url.get_secret_value(), f"{self._service} relay")
        self._publisher = Publisher(self._broker)
        self._woken = asyncio.Event()
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._checked_epoch: int | None = None
        # What the database said last, and what the stream has acknowledged since. Any doubt throws both away.
        self._recorded: State | None = None
        self._state: State | None = None
        self._recorded_time = 0.0
        self._unsure = False
        self.leading = False

    @property
    def connected(self) -> bool:
        """Whether NATS answers."""
        return self._broker.connected

    def wake(self) -> None:
        """Says that rows were committed. Costs nothing; without it they are found within half a second."""
        self._woken.set()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Ends `run` after one more round, so that what was committed is on its way; waits up to ``grace_s``."""
        self._stopping = True
        self._woken.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._ended.wait()

    async def run(self) -> None:
        """Works until `stop`, or until it is cancelled, which is safe at any point."""
        self._ended.clear()
        self._broker.open()
        listening = self._broker.follow([_call_subject(self._service)], self._called)
        calls = asyncio.create_task(listening, name=f"{self._service} relay calls")
        try:
            while not self._stopping:
                try:
                    await self._stand()
                except _DATABASE_AWAY as error:
                    log.warning("the relay lost its database", exc_info=error)
                    await asyncio.sleep(_RETRY_S)
        finally:
            calls.cancel()
            await asyncio.gather(calls, return_exceptions=True)
            await self._broker.close()
            self._ended.set()

    # ---- leadership ----------------------------------------------------------------------------------------

    async def _stand(self) -> None:
        """Waits for the lock and works while it holds it."""
        async with candidate(self._leader_dsn, self._service) as connection:
            while not self._stopping:
                if await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(self._service)):
                    await self._lead(connection)
                    return
                await self._pass_on(1.0)

    async def _pass_on(self, limit_s: float) -> None:
        """Tells the replica that leads of commits here, for so long. A message may be lost: it polls as well."""
        end = time.monotonic() + limit_s
        while not self._stopping and await self._rest(end - time.monotonic()):
            if self._broker.connected:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await self._broker.client.publish(_call_subject(self._service))

    async def _called(self, _: Msg) -> None:
        if self.leading:
            self._woken.set()

    async def _rest(self, limit_s: float) -> bool:
        """Waits for a wake or for the limit; says whether it was a wake."""
        try:
            async with asyncio.timeout(limit_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _lead(self, lock: Connection) -> None:
        self.leading, self._checked_epoch = True, None
        log.info("the relay leads")
        beat = asyncio.create_task(hold(lock), name=f"{self._service} relay lock")
        try:
            async with working(self._dsn, self._service) as connection:
                await self._work(connection, beat)
            if beat.done():
                await beat
        finally:
            self.leading = False
            self._forget()
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    async def _work(self, connection: Connection, beat: asyncio.Task[None]) -> None:
        woken = True
        while not beat.done():
            # No rest between rounds: what is committed during one goes together in the next.
            more = await self._round(connection, woken)
            if self._stopping and not more:
                await self._record(connection)
                return
            woken = more or await self._rest(RECORD_S if self._behind() else POLL_S)
            if not woken:
                await self._record(connection)

    # ---- a round -------------------------------------------------------------------------------------------

    async def _round(self, connection: Connection, woken: bool) -> bool:
        """Numbers and publishes one batch each; says whether there is more to do at once."""
        state, unnumbered = self._state, woken
        if state is None or self._unsure or not woken:
            state, unnumbered = await self._look(connection)
        fresh = await self._number(connection, state) if unnumbered else []
        # Another relay numbered meanwhile, or the round before took the rows that this wake is for.
        self._unsure = unnumbered and not fresh
        published = await self._publish(connection, fresh) if self._broker.connected else 0
        return self._batch in (len(fresh), published)

    async def _look(self, connection: Connection) -> tuple[State, bool]:
        """Reads how far the ledger is, and whether rows wait for a position."""
        row = await connection.fetchrow(STATE)
        assert row is not None
        read = state = State(row["last_position"], row["watermark"], row["stream_seq"], row["event_id"])
        if self._recorded and self._state and self._recorded.watermark == read.watermark:
            # Nobody moved the watermark: what the stream has acknowledged since stays known.
            state = replace(self._state, last_position=read.last_position)
        self._recorded, self._state = read, state
        return state, row["unnumbered"]

    async def _number(self, connection: Connection, state: State) -> list[Row]:
        """Gives committed rows their positions, in the order of their ids. Returns those that got one."""
        rows: list[Row] = await connection.fetch(NUMBER, state.last_position, self._batch, record_class=Row)
        if rows:
            self._state = replace(state, last_position=rows[-1].position)
        return rows

    async def _publish(self, connection: Connection, fresh: Sequence[Row]) -> int:
        """Publishes a batch above the watermark. Returns how many rows the stream has taken.

        ``fresh`` are the rows that were numbered just now: they need not be read again where nothing lies between.
        """
        epoch = self._broker.epoch
        if self._checked_epoch != epoch and not await self._check(connection, epoch):
            return 0
        state = self._state
        assert state is not None
        rows = fresh
        if not fresh or fresh[0].position != state.watermark + 1:
            if state.watermark >= state.last_position:
                return 0
            rows = await connection.fetch(UNPUBLISHED, state.watermark, self._batch, record_class=Row)
        done: list[Published] = []
        for start in range(0, len(rows), WINDOW):
            window = rows[start : start + WINDOW]
            sent = await self._send(window)
            done += sent
            if len(sent) < len(window):
                break
        if not done or self._broker.epoch != epoch or _went_back(done, state.stream_seq):
            # What was acknowledged may be the first thing in a stream that lost all before it.
            self._forget()
            return 0
        row, ack = done[-1]
        self._state = replace(state, watermark=row.position, stream_seq=ack.seq, event_id=row.event_id)
        if time.monotonic() >= self._recorded_time + RECORD_S:
            await self._record(connection)
        return len(done)

    async def _send(self, rows: Sequence[Row]) -> list[Published]:
        """Publishes rows together; returns those before the first one whose acknowledgement is missing."""
        spans = [_span(row) for row in rows]
        limit = self._broker.client.max_payload - _HEADROOM_BYTES
        acks = await self._publisher.publish(
            [
                seal(self._service, row, telemetry.traceparent(span) if span else row.trace_context, limit)
                for row, span in zip(rows, spans, strict=True)
            ]
        )
        for span, ack in zip(spans, acks, strict=True):
            if span is not None:
                if ack is None:
                    telemetry.fail(span, TimeoutError())
                span.end()
        return [Published(row, ack) for row, ack in takewhile(itemgetter(1), zip(rows, acks, strict=True)) if ack]

    async def _record(self, connection: Connection) -> None:
        """Moves the watermark in the database to what the stream has acknowledged, unless somebody else moved it."""
        recorded, state = self._recorded, self._state
        if recorded is None or state is None or not self._behind():
            return
        moved = await connection.fetchval(MOVE, recorded.watermark, state.watermark, state.stream_seq, state.event_id)
        self._recorded, self._recorded_time = state, time.monotonic()
        if moved is None:
            self._forget()

    def _behind(self) -> bool:
        recorded, state = self._recorded, self._state
        return recorded is not None and state is not None and recorded.watermark != state.watermark

    def _forget(self) -> None:
        """The next round asks the database again how far the ledger is, and then the stream."""
        self._recorded = self._state = self._checked_epoch = None

    # ---- a broker that forgot ------------------------------------------------------------------------------

    async def _check(self, connection: Connection, epoch: int) -> bool:
        """Compares what was published last with what the stream holds; where they differ, it begins again.

        Returns False while there is no stream to compare with.
        """
        try:
            info = await self._broker.jetstream.stream_info(STREAM)
            state, _ = await self._look(connection)
            if state.event_id is not None and not await self._holds(
                info.state.first_seq, info.state.last_seq, state.stream_seq, state.event_id
            ):
                since = await connection.fetchval(AGE_LIMIT, info.config.max_age or 0.0)
                await self._record(connection)
                await _set_back(connection, state.watermark, since)
                self._forget()
                log.warning("the stream lost events; they are published again", stream_seq=state.stream_seq)
                await self._look(connection)
        except (nats.errors.Error, OSError, TimeoutError):
            return False
        self._checked_epoch = epoch
        return True

    async def _holds(self, first_seq: int, last_seq: int, seq: int, event_id: UUID) -> bool:
        if seq > last_seq:
            return False
        if seq < first_seq:
            return True  # it aged out, as it should
        try:
            found = await self._broker.jetstream.get_msg(STREAM, seq)
        except NotFoundError:
            return False  # erased, or the stream is another one: publishing again does no harm
        return (found.headers or {}).get(EVENT_ID) == str(event_id)


async def republish(db: Database, since: datetime) -> int:
    """Makes the relay publish again what was committed from ``since`` on. Returns how many events that are at most.

    For a broker that lost events without the relay noticing. Consumers have every effect once all the same.
    """
    async with db.worker() as connection:
        state = await connection.driver.fetchrow(STATE)
        watermark = await _set_back(connection.driver, state["watermark"], since)
    return int(state["last_position"]) - watermark


async def _set_back(connection: Connection, seen: int, since: datetime) -> int:
    before = await connection.fetchval(BEFORE, since)
    watermark = seen if before is None else min(seen, int(before))
    await connection.execute(SET_BACK, seen, watermark)
    return watermark


def _span(row: Row) -> Span | None:
    """The span of a row's publication under the call that made it; None where that is not recorded."""
    if not telemetry.is_recorded(row.trace_context):
        return None
    return telemetry.start(
        f"publish {row.type}",
        kind=SpanKind.PRODUCER,
        parent=row.trace_context,
        attributes={"messaging.system": "nats", "messaging.message.id": str(row.event_id)},
    )


def _went_back(done: Iterable[Published], seq: int) -> bool:
    return any(each.ack.seq <= seq and not each.ack.duplicate for each in done)


def _call_subject(service: str) -> str:
    return f"rapport.relay.{service}"
