"""Sends what is due, and reads ledgers again for ranges of time that are to be replayed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import groupby
from typing import Final
from uuid import UUID

from crm.gateway.v1 import webhook_endpoint_pb2 as pb
from opentelemetry.trace import SpanKind

from chassis import telemetry
from chassis.change import Change
from chassis.errors import Failure
from chassis.service import Platform
from chassis.sql import Row
from gateway.live.ledgers import Ledgers
from gateway.live.rendering import event_of
from gateway.live.wanted import may_see
from gateway.outbound import NoAnswer, Outbound, Refused, Response
from gateway.transcode import Transcoder
from gateway.webhooks import queue, schedule, signing
from gateway.webhooks.queue import Result, Turn
from gateway.webhooks.replays import Replays

_POLL_S: Final = 0.5
# Endpoints that one process sends to at once, and how many of one tenant; and calls to one endpoint at once.
_ENDPOINTS: Final = 64
_OF_A_TENANT: Final = 16
_LANES: Final = 8
ATTEMPT_S: Final = 15.0
_ANSWER_BYTES: Final = 16 * 1024
_EXCERPT: Final = 500

log = telemetry.logger()


async def webhooks(platform: Platform) -> None:
    """Sends webhooks in every tenant, for ever."""
    sender = Sender(platform)
    async with asyncio.TaskGroup() as group:
        while True:
            await sender.turn_to_due(group)
            await asyncio.sleep(_POLL_S)


class Sender:
    """Sends to many endpoints at once, and to each as its answers allow, so that one that hangs holds up itself."""

    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._platform = platform
        self._ledgers = Ledgers(platform.channels)
        self._replays = Replays(platform.db, self._ledgers)
        self._outbound = Outbound(platform.settings.trusted_hosts)
        self._codec = Transcoder()
        self._busy: set[tuple[UUID, UUID]] = set()

    async def turn_to_due(self, group: asyncio.TaskGroup) -> None:
        """Begins a turn at every endpoint that is due and that there is room for."""
        due = [(row.tenant_id, row.endpoint_id) for row in await self._db.due(queue.DUE)]
        busy_of = Counter(tenant for tenant, _ in self._busy)
        for tenant, endpoint in due:
            if len(self._busy) >= _ENDPOINTS:
                break
            if (tenant, endpoint) not in self._busy and busy_of[tenant] < _OF_A_TENANT:
                busy_of[tenant] += 1
                self._busy.add((tenant, endpoint))
                group.create_task(self._turn(tenant, endpoint), name="webhook turn")
        await self._replays.step()

    async def _turn(self, tenant: UUID, endpoint: UUID) -> None:
        try:
            turn = await queue.take(self._db, self._platform.sealer, tenant, endpoint)
            if turn is not None:
                await self._send(turn)
                if await queue.give_back(self._db, turn):
                    self._platform.wake()
        except Exception as error:
            # Its lease runs out, and it is tried again; the others must not wait for it.
            log.error("a webhook endpoint could not be served", endpoint=str(endpoint), exc_info=error)
        finally:
            self._busy.discard((tenant, endpoint))

    async def _send(self, turn: Turn) -> None:
        """Sends what is due: changes of one record in their order, different records at once."""
        end = time.monotonic() + queue.TURN_S
        rows = sorted(turn.waiting, key=lambda row: (row.entity_id, row.commit_time, row.position))
        lanes = asyncio.Semaphore(_LANES)

        async def lane(rows: list[Row]) -> None:
            async with lanes:
                for row in rows:
                    if time.monotonic() >= end or (turn.failures >= schedule.REST_AFTER and len(turn.waiting) > 1):
                        return
                    try:
                        result = await self._attempt(turn, row)
                    except Failure as failure:
                        # A ledger that is away is no fault of the endpoint: the delivery stays due.
                        log.info("an event cannot be read now", service=row.service, exc_info=failure)
                        return
                    await queue.settle(self._db, turn, row, result)

        async with asyncio.TaskGroup() as group:
            for _, each in groupby(rows, key=lambda row: row.entity_id):
                group.create_task(lane(list(each)))

    async def _attempt(self, turn: Turn, row: Row) -> Result:
        change = await self._change(turn.tenant, row)
        if change is None:
            return Result(pb.WEBHOOK_DELIVERY_STATE_WITHHELD, error="the event is not in its ledger any more")
        if turn.caller is None or not may_see(turn.caller, change):
            return Result(pb.WEBHOOK_DELIVERY_STATE_WITHHELD, error="who made the endpoint may not read it now")
        with telemetry.span("webhook", kind=SpanKind.CLIENT, parent=change.trace_context or None) as span:
            body = self._codec.json(event_of(change, self._codec, turn.caller))
            headers = signing.headers(str(row.event_id), int(time.time()), body, turn.secrets)
            headers["traceparent"] = telemetry.traceparent()
            try:
                answer = await self._outbound.fetch(
                    "POST", turn.endpoint.url, headers, body, timeout_s=ATTEMPT_S, max_bytes=_ANSWER_BYTES
                )
            except (Refused, NoAnswer) as failure:
                telemetry.fail(span, failure)
                return Result(pb.WEBHOOK_DELIVERY_STATE_PENDING, error=failure.reason)
            span.set_attribute("http.response.status_code", answer.status)
        return _result(answer)

    async def _change(self, tenant: UUID, row: Row) -> Change | None:
        """The change a delivery tells of, as its ledger has it now: what was erased there is not sent."""
        page = await self._ledgers.read(row.service, row.position - 1, tenant=tenant, limit=1)
        found = next((each for each in page.changes if each.position == row.position), None)
        return found if found is not None and found.event_id == row.event_id else None


def _result(answer: Response) -> Result:
    # Text columns hold no NUL.
    excerpt = answer.body.decode(errors="replace").replace("\0", "")[:_EXCERPT]
    if 200 <= answer.status < 300:
        return Result(pb.WEBHOOK_DELIVERY_STATE_DELIVERED, answer.status, "", excerpt)
    error = f"it answered {answer.status}"
    if 300 <= answer.status < 400:
        error += ": redirects are not followed"
    return Result(pb.WEBHOOK_DELIVERY_STATE_PENDING, answer.status, error, excerpt, gone=answer.status == 410)
