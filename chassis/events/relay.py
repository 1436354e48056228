"""The relay: gives a ledger's rows their positions and publishes them in that order."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import PubAck
from nats.js.errors import NotFoundError
from opentelemetry.trace import Span, SpanKind
from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import telemetry
from chassis.db import Database
from chassis.errors import Failure
from chassis.events.broker import EVENT_ID, STREAM, Broker
from chassis.events.envelope import seal
from chassis.events.statements import (
    ADVANCE,
    AGE_LIMIT,
    BEFORE,
    LOCKED_STATE,
    MOVE,
    NUMBER,
    PENDING,
    RECORD,
    SET_BACK,
    STATE,
    UNNUMBERED,
    UNPUBLISHED,
)
from chassis.settings import Settings

WINDOW: Final = 256
ACK_TIMEOUT_S: Final = 2.0
POLL_S: Final = 0.5
# Rounds begin no closer together: a commit after a quiet moment is published at once, those of a busy one together.
GATHER_S: Final = 0.02
# A leader that is stopped loses its lock after so long; one that works touches it three times as often.
LEADER_IDLE_S: Final = 3
_RETRY_S: Final = 0.5
_HEADROOM_BYTES: Final = 16 * 1024
# The driver has no common class. InternalClientError: a connection that the server closed is used once more.
_DATABASE_AWAY: Final = (
    Failure,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

log = telemetry.logger()


@dataclass(frozen=True)
class Published:
    """A row and where the stream keeps it."""

    row: Row[Any]
    ack: PubAck


class Relay:
    """Publishes one service's ledger. Every replica runs one; the holder of an advisory lock works.

    It numbers rows whether NATS is there or not, and publishes what is above its watermark when it can. Rows
    may be published twice: by a leader that was stopped and wakes, after a lost acknowledgement, and all of them
    again after the stream lost what it had.
    """

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._service = db.schema.name
        self._batch = settings.relay_batch
        dsn = settings.leader_dsn or settings.worker_database_url
        if dsn is None:
            raise ValueError("a relay needs RAPPORT_WORKER_DATABASE_URL")
        self._leader_dsn = dsn.get_secret_value()
        self._broker = Broker(settings.nats_url.get_secret_value(), f"{self._service} relay")
        self._woken = asyncio.Event()
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._checked_epoch: int | None = None
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
        calls = asyncio.create_task(self._listen(), name=f"{self._service} relay calls")
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
        async with self._candidate() as connection:
            while not self._stopping:
                if await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(self._service)):
                    await self._lead(connection)
                    return
                await self._pass_on()

    @asynccontextmanager
    async def _candidate(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(
            self._leader_dsn,
            timeout=2,
            command_timeout=2,
            # A stopped process keeps its connections: without this limit it would keep the lock for ever.
            server_settings={
                "idle_session_timeout": f"{LEADER_IDLE_S}s",
                "application_name": f"rapport-{self._service}-leader",
            },
        )
        try:
            yield connection
        finally:
            connection.terminate()  # closes at once, and the lock with it, even where the server does not answer

    async def _pass_on(self) -> None:
        """Tells the replica that leads of a commit here. The message may be lost: it polls as well."""
        if await self._rest(1.0) and self._broker.connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._broker.client.publish(_call_subject(self._service))

    async def _listen(self) -> None:
        async def called(_: Msg) -> None:
            if self.leading:
                self._woken.set()

        while True:
            await self._broker.wait()
            epoch = self._broker.epoch
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                subscription = await self._broker.client.subscribe(_call_subject(self._service), cb=called)
                await self._broker.lost(epoch)
                await subscription.unsubscribe()
            await asyncio.sleep(0)

    async def _rest(self, limit_s: float) -> bool:
        """Waits for a wake or for the limit; says whether it was a wake."""
        try:
            async with asyncio.timeout(limit_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _lead(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.leading, self._checked_epoch = True, None
        log.info("the relay leads")
        beat = asyncio.create_task(_hold(connection), name=f"{self._service} relay lock")
        try:
            woken = True
            while not beat.done():
                more = await self._round(woken)
                ended = time.monotonic()
                if self._stopping and not more:
                    return
                woken = more or await self._rest(POLL_S)
                if woken and not more and not self._stopping:
                    await asyncio.sleep(max(0.0, ended + GATHER_S - time.monotonic()))
            await beat
        finally:
            self.leading = False
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    # ---- a round -------------------------------------------------------------------------------------------

    async def _round(self, woken: bool) -> bool:
        """Numbers and publishes one batch each; says whether there is more to do at once."""
        numbered = await self._number(look_first=not woken)
        published = await self._publish() if self._broker.connected else 0
        return numbered == self._batch or published == self._batch

    async def _number(self, *, look_first: bool) -> int:
        """Gives committed rows their positions, in the order of their ids. Returns how many got one."""
        async with self._db.worker() as connection:
            if look_first and not (await connection.execute(PENDING)).scalar_one():
                return 0
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '3s'"))
            # A statement of its own: a stopped leader may wake beside a new one, and a statement that waited
            # for this lock would still see the rows as they were before it waited.
            state = (await connection.execute(LOCKED_STATE)).one()
            rows = (await connection.execute(UNNUMBERED, {"batch": self._batch})).all()
            if rows:
                first = state.last_position + 1
                positions = list(range(first, first + len(rows)))
                await connection.execute(NUMBER, {**_keys(rows), "positions": positions})
                await connection.execute(ADVANCE, {"position": positions[-1]})
            return len(rows)

    async def _publish(self) -> int:
        """Publishes a batch above the watermark and moves it. Returns how many rows the stream has taken."""
        epoch = self._broker.epoch
        if self._checked_epoch != epoch and not await self._check(epoch):
            return 0
        async with self._db.worker() as connection:
            state = (await connection.execute(STATE)).one()
            if state.watermark >= state.last_position:
                return 0
            limits = {"watermark": state.watermark, "batch": self._batch}
            rows = (await connection.execute(UNPUBLISHED, limits)).all()
        done: list[Published] = []
        for start in range(0, len(rows), WINDOW):
            sent = await self._send(rows[start : start + WINDOW])
            done += sent
            if len(sent) < len(rows[start : start + WINDOW]):
                break
        if not done or self._broker.epoch != epoch or _went_back(done, state.stream_seq):
            # What was acknowledged may be the first thing in a stream that lost all before it.
            self._checked_epoch = None
            return 0
        return len(done) if await self._record(state.watermark, done) else 0

    async def _send(self, rows: Sequence[Row[Any]]) -> list[Published]:
        """Publishes rows without waiting in between; returns those acknowledged before the first that was not."""
        spans: list[Span] = []
        futures: list[asyncio.Future[PubAck]] = []
        limit = self._broker.client.max_payload - _HEADROOM_BYTES
        try:
            for row in rows:
                span = telemetry.start(
                    f"publish {row.type}",
                    kind=SpanKind.PRODUCER,
                    parent=row.trace_context,
                    attributes={"messaging.system": "nats", "messaging.message.id": str(row.event_id)},
                )
                spans.append(span)
                subject, headers, body = seal(self._service, row, telemetry.traceparent(span), limit)
                futures.append(
                    await self._broker.jetstream.publish_async(
                        subject, body, wait_stall=ACK_TIMEOUT_S, stream=STREAM, headers=headers
                    )
                )
        except (nats.errors.Error, OSError) as error:
            log.warning("publishing stopped", exc_info=error)
        if futures:
            await asyncio.wait(futures, timeout=ACK_TIMEOUT_S)
        acks = [_acknowledged(future) for future in futures]
        for span, ack in zip(spans, acks + [None] * (len(spans) - len(acks)), strict=True):
            if ack is None:
                telemetry.fail(span, TimeoutError())
            span.end()
        first_missing = next((index for index, ack in enumerate(acks) if ack is None), len(acks))
        return [Published(row, ack) for row, ack in zip(rows, acks[:first_missing], strict=False) if ack]

    async def _record(self, seen: int, done: Sequence[Published]) -> bool:
        """Notes where the stream keeps the rows and moves the watermark, unless another relay moved it."""
        last = done[-1]
        moved = {
            "seen": seen,
            "watermark": last.row.position,
            "stream_seq": last.ack.seq,
            "event_id": last.row.event_id,
        }
        async with self._db.worker() as connection:
            if (await connection.execute(MOVE, moved)).rowcount == 0:
                return False
            seqs = [each.ack.seq for each in done]
            await connection.execute(RECORD, {**_keys([each.row for each in done]), "seqs": seqs})
        return True

    # ---- a broker that forgot ------------------------------------------------------------------------------

    async def _check(self, epoch: int) -> bool:
        """Compares what was published last with what the stream holds; where they differ, it begins again.

        Returns False while there is no stream to compare with.
        """
        try:
            info = await self._broker.jetstream.stream_info(STREAM)
            async with self._db.worker() as connection:
                state = (await connection.execute(STATE)).one()
            if state.event_id is not None and not await self._holds(
                info.state.first_seq, info.state.last_seq, state.stream_seq, state.event_id
            ):
                age_s = info.config.max_age or 0
                async with self._db.worker() as connection:
                    since = (await connection.execute(AGE_LIMIT, {"age_s": age_s})).scalar_one()
                    await _set_back(connection, state.watermark, since)
                log.warning("the stream lost events; they are published again", stream_seq=state.stream_seq)
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
        state = (await connection.execute(STATE)).one()
        watermark = await _set_back(connection, state.watermark, since)
    return int(state.last_position) - watermark


def lock_key(service: str) -> int:
    """The advisory lock that a service's relay leads by."""
    digest = hashlib.sha256(f"rapport relay {service}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


async def _set_back(connection: AsyncConnection, seen: int, since: datetime) -> int:
    before = (await connection.execute(BEFORE, {"since": since})).scalar_one()
    watermark = seen if before is None else min(seen, int(before))
    await connection.execute(SET_BACK, {"watermark": watermark, "seen": seen})
    return watermark


async def _hold(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Keeps the lock's connection from being idle; ends with an error when the server has closed it."""
    while True:
        await asyncio.sleep(LEADER_IDLE_S / 3)
        await connection.fetchval("SELECT 1")


def _acknowledged(future: asyncio.Future[PubAck]) -> PubAck | None:
    if not future.done():
        future.cancel()
        return None
    return None if future.exception() else future.result()


def _went_back(done: Iterable[Published], seq: int) -> bool:
    return any(each.ack.seq <= seq and not each.ack.duplicate for each in done)


def _keys(rows: Sequence[Row[Any]]) -> dict[str, list[Any]]:
    return {
        "tenants": [row.tenant_id for row in rows],
        "ids": [row.id for row in rows],
        "commit_times": [row.commit_time for row in rows],
    }


def _call_subject(service: str) -> str:
    return f"rapport.relay.{service}"
