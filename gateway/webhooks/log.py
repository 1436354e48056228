"""The log of deliveries: one row an endpoint and event, however often the event arrives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from crm.gateway.v1 import webhook_endpoint_pb2 as pb
from sqlalchemy import bindparam, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from chassis import ids
from chassis.change import Change
from chassis.context import Caller
from chassis.db import Tx
from chassis.query import page_of
from chassis.rows import moment, timestamp
from chassis.sql import Row
from chassis.tokens import Sealer
from chassis.work import View
from gateway.identity.later import caller_now
from gateway.live.wanted import Wanted, may_see
from gateway.webhooks.tables import ITS_DELIVERIES, THIS_QUEUE, deliveries, endpoints, queues

TESTED: Final = "crm.gateway.v1.WebhookEndpoint.tested"
PENDING: Final = pb.WEBHOOK_DELIVERY_STATE_PENDING

LISTENING = (
    select(
        endpoints.c.id, endpoints.c.record, queues.c.principal_id, queues.c.scopes, queues.c.credential, queues.c.access
    )
    .join(queues, (queues.c.tenant_id == endpoints.c.tenant_id) & (queues.c.endpoint_id == endpoints.c.id))
    .where(
        endpoints.c.tenant_id == bindparam("tenant"),
        endpoints.c.delete_time.is_(None),
        endpoints.c.state != pb.WEBHOOK_STATE_DISABLED,
    )
    .order_by(endpoints.c.id)
)
_NAMES = ("endpoint_id", "event_id", "service", "position", "type", "entity_id", "commit_time")
_ROW = insert(deliveries).values(
    tenant_id=bindparam("tenant"),
    state=PENDING,
    begin_time=func.now(),
    attempts=0,
    url="",
    last_status=0,
    last_error="",
    excerpt="",
    due_time=func.now(),
    **{name: bindparam(f"v_{name}") for name in _NAMES},
)
_ENTER = _ROW.on_conflict_do_nothing()
_AFRESH = {"state": PENDING, "attempts": 0, "begin_time": func.now(), "due_time": func.now()}
_ENTER_AGAIN = _ROW.on_conflict_do_update(
    index_elements=[deliveries.c.tenant_id, deliveries.c.endpoint_id, deliveries.c.event_id], set_=_AFRESH
)
_ENTER_UNDELIVERED = _ROW.on_conflict_do_update(
    index_elements=[deliveries.c.tenant_id, deliveries.c.endpoint_id, deliveries.c.event_id],
    set_=_AFRESH,
    where=deliveries.c.state != pb.WEBHOOK_DELIVERY_STATE_DELIVERED,
)
_WAKE = (
    update(queues)
    .where(*THIS_QUEUE)
    .values(due_time=func.least(func.coalesce(queues.c.due_time, func.now()), func.now()))
)


class Listener:
    """An endpoint that is sent to: what it wants, and may see."""

    def __init__(self, row: Row) -> None:
        self.id: UUID = row.id
        self.endpoint = pb.WebhookEndpoint.FromString(row.record)
        self._row = row
        self._wanted = Wanted(self.endpoint)

    async def of(self, changes: Sequence[Change], tx: Tx) -> list[Change]:
        """Those of the changes that the endpoint hears of."""
        caller = await caller_now(tx, self._row) if changes else None
        if caller is None:
            return []
        return [each for each in changes if self._takes(each, caller) and may_see(caller, each)]

    def _takes(self, change: Change, caller: Caller) -> bool:
        if change.type != TESTED:
            return self._wanted.takes(change, caller)
        # A test is heard by the endpoint that is tested, and by no other that did not ask.
        asked = bool(self.endpoint.types) and self._wanted.takes(change, caller)
        return change.entity_id == self.endpoint.id or asked


async def enter(changes: list[Change], tx: Tx) -> None:
    """Enters changes, each for every endpoint of the transaction's tenant that hears of it."""
    # Most tenants have no endpoint: then this is all, in one round trip.
    for row in await tx.rows_alone(LISTENING):
        listener = Listener(row)
        began = moment(listener.endpoint.create_time)
        heard = await listener.of([each for each in changes if each.commit_time >= began], tx)
        await _enter(_ENTER, listener.id, heard, tx)


async def enter_again(listener: Listener, changes: Sequence[Change], tx: Tx, *, undelivered_only: bool) -> None:
    """Enters changes for one endpoint, those too that were entered before."""
    statement = _ENTER_UNDELIVERED if undelivered_only else _ENTER_AGAIN
    await _enter(statement, listener.id, await listener.of(changes, tx), tx)


async def _enter(statement: Any, endpoint: UUID, changes: Sequence[Change], tx: Tx) -> None:
    if not changes:
        return
    # In the order of ids, so that two consumers with the same events wait for each other instead of locking up.
    rows = [_values(endpoint, each) for each in sorted(changes, key=lambda change: change.event_id)]
    await tx.execute_many(statement, rows)
    await tx.execute(_WAKE, {"endpoint": endpoint})


def _values(endpoint: UUID, change: Change) -> dict[str, Any]:
    return {
        "v_endpoint_id": endpoint,
        "v_event_id": change.event_id,
        "v_service": change.service,
        "v_position": change.position,
        "v_type": change.type,
        "v_entity_id": change.entity_id,
        "v_commit_time": change.commit_time,
    }


async def page(
    sealer: Sealer, request: pb.ListWebhookDeliveriesRequest, endpoint: UUID, tx: View
) -> pb.ListWebhookDeliveriesResponse:
    """A page of an endpoint's deliveries, the latest event first."""
    events = [UUID(each) for each in request.event_ids]
    query = (tx.tenant, "deliveries", endpoint, request.state, *events)
    place = page_of(sealer, request.page_size, request.page_token, query)
    c = deliveries.c
    statement = select(deliveries).where(*ITS_DELIVERIES)
    if request.state:
        statement = statement.where(c.state == request.state)
    if events:
        statement = statement.where(c.event_id == func.any(bindparam("events")))
    if place.after is not None:
        statement = statement.where(tuple_(c.commit_time, c.event_id) < tuple_(*place.after))
    statement = statement.order_by(c.commit_time.desc(), c.event_id.desc()).limit(place.size + 1)
    rows = await tx.rows(statement, {"endpoint": endpoint, "events": events})
    response = pb.ListWebhookDeliveriesResponse(deliveries=[_shown(row) for row in rows[: place.size]])
    if len(rows) > place.size:
        last = rows[place.size - 1]
        response.next_page_token = place.next_token([last.commit_time, last.event_id])
    return response


def _shown(row: Row) -> pb.WebhookDelivery:
    delivery = pb.WebhookDelivery(
        webhook_endpoint_id=ids.encode("webhook_endpoint", row.endpoint_id),
        event_id=str(row.event_id),
        type=row.type,
        entity_id=row.entity_id,
        state=row.state,
        attempt_count=row.attempts,
        url=row.url,
        last_status=row.last_status,
        last_error=row.last_error,
        response_excerpt=row.excerpt,
        commit_time=timestamp(row.commit_time),
    )
    times: list[tuple[str, dt.datetime | None]] = [
        ("last_attempt_time", row.last_attempt_time),
        ("next_attempt_time", row.due_time),
    ]
    for name, time in times:
        if time is not None:
            getattr(delivery, name).CopyFrom(timestamp(time))
    return delivery
