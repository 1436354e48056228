"""Webhook endpoints: their standard methods, their secrets, and what is to be sent to them again."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final
from uuid import UUID

from crm.gateway.v1 import webhook_endpoint_pb2 as pb
from sqlalchemy import bindparam, func, insert, select, update

from chassis import context, ids
from chassis.errors import Exhausted, Precondition, Reason, invalid
from chassis.resource import Record, Resource
from chassis.rows import moment, timestamp
from chassis.service import Platform, Service
from chassis.work import View, Work
from gateway.identity.later import kept_of
from gateway.live.replay import LEDGERS
from gateway.live.wanted import check_wanted
from gateway.outbound import Outbound, Refused
from gateway.webhooks import log, signing
from gateway.webhooks.tables import ITS_DELIVERIES, THIS_QUEUE, deliveries, endpoints, queues, replays

# More endpoints than this are not made in a tenant.
LIMIT: Final = 100
OVERLAP: Final = dt.timedelta(days=1)
# Replays of ranges that one endpoint may have under way.
_REPLAYS: Final = 5

RESOURCE = Resource(pb.WebhookEndpoint, endpoints, transient=["secret"])

_COUNT = select(func.count().label("n")).where(
    endpoints.c.tenant_id == bindparam("tenant"), endpoints.c.delete_time.is_(None)
)
_OPEN = insert(queues).values(
    tenant_id=bindparam("tenant"),
    old_secret="",
    resume_time=func.now(),
    failures=0,
    **{name: bindparam(name) for name in ("endpoint_id", "secret", "principal_id", "scopes", "credential", "access")},
)
_ROTATE = (
    update(queues)
    .where(*THIS_QUEUE)
    .values(old_secret=queues.c.secret, secret=bindparam("new"), old_secret_expire_time=bindparam("until"))
)
# What waits is looked for at once, whatever rest the failures before had earned.
WAKE = (
    update(queues)
    .where(*THIS_QUEUE)
    .values(due_time=func.now(), resume_time=func.now(), failures=0, failing_since=None)
)
_AGAIN = (
    update(deliveries)
    .where(*ITS_DELIVERIES, deliveries.c.event_id == func.any(bindparam("events")))
    .values(state=pb.WEBHOOK_DELIVERY_STATE_PENDING, attempts=0, begin_time=func.now(), due_time=func.now())
    .returning(deliveries.c.event_id)
)
_BEGIN_REPLAY = insert(replays).values(
    tenant_id=bindparam("tenant"),
    lease_time=func.now(),
    **{
        name: bindparam(name)
        for name in ("id", "endpoint_id", "start_time", "end_time", "undelivered_only", "positions")
    },
)
_UNDER_WAY = select(func.count().label("n")).where(
    replays.c.tenant_id == bindparam("tenant"), replays.c.endpoint_id == bindparam("endpoint")
)


class WebhookEndpoints(Service, serves="crm.gateway.v1.WebhookEndpointService"):
    """Webhook endpoints. What is sent to them is `gateway.webhooks.sender`'s work."""

    resource = RESOURCE

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self._outbound = Outbound(platform.settings.trusted_hosts)
        RESOURCE.prepare = self._prepare

    async def _prepare(self, work: Work, endpoint: pb.WebhookEndpoint, before: pb.WebhookEndpoint | None) -> None:
        was = before or pb.WebhookEndpoint()
        if endpoint.url and endpoint.url != was.url:
            try:
                self._outbound.check(endpoint.url)
            except Refused as refused:
                raise invalid("url", refused.reason) from None
        if any(getattr(endpoint, name) != getattr(was, name) for name in ("types", "changed_fields", "filter")):
            check_wanted(endpoint, context.current().caller)
        if before is None:
            endpoint.state = pb.WEBHOOK_STATE_ENABLED
            endpoint.state_time.CopyFrom(timestamp(await work.now()))
            endpoint.principal_id = context.current().caller.principal
            if (await work.rows(_COUNT))[0].n >= LIMIT:
                text = f"a tenant has at most {LIMIT} webhook endpoints; delete one"
                raise Exhausted(Reason.REASON_OVERLOADED, text)

    async def CreateWebhookEndpoint(self, request: Any, work: Work) -> pb.WebhookEndpoint:
        """Makes an endpoint. Its secret is in this answer alone: a repetition with the same request id has none."""
        made: Any = await self.standard.create(request, work)
        endpoint, secret, caller = RESOURCE.uuid(made.id), signing.make_secret(), context.current().caller
        kept = {
            "endpoint_id": endpoint,
            "secret": signing.seal(self.platform.sealer, work.tenant, endpoint, secret),
            **kept_of(caller),
        }
        await work.execute(_OPEN, kept)
        return _with_secret(request, made, secret, work)

    async def RotateWebhookEndpointSecret(self, request: Any, work: Work) -> pb.WebhookEndpoint:
        """Makes a new secret; the old one signs too until the overlap is over."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        overlap = request.overlap.ToTimedelta() if request.HasField("overlap") else OVERLAP
        until = await work.now() + overlap
        record.after.old_secret_expire_time.CopyFrom(timestamp(until))
        changed = await work.update(record, "rotated")
        endpoint, secret = RESOURCE.uuid(request.id), signing.make_secret()
        new = signing.seal(self.platform.sealer, work.tenant, endpoint, secret)
        await work.execute(_ROTATE, {"endpoint": endpoint, "new": new, "until": until})
        return _with_secret(request, changed, secret, work)

    async def EnableWebhookEndpoint(self, request: Any, work: Work) -> pb.WebhookEndpoint:
        """Lets a disabled or failing endpoint be sent to, at once."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        record.after.state = pb.WEBHOOK_STATE_ENABLED
        record.after.state_reason = ""
        record.after.state_time.CopyFrom(timestamp(await work.now()))
        await work.execute(WAKE, {"endpoint": RESOURCE.uuid(request.id)})
        return await work.update(record, "enabled")

    async def DisableWebhookEndpoint(self, request: Any, work: Work) -> pb.WebhookEndpoint:
        """Sends no more to an endpoint; one that is disabled keeps its first reason."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        if record.before.state == pb.WEBHOOK_STATE_DISABLED:
            raise Precondition(Reason.REASON_STATE_INVALID, f"{request.id} is disabled already")
        return await disable(work, record, request.reason or "disabled by a call")

    async def TestWebhookEndpoint(self, request: Any, work: Work) -> pb.WebhookEndpoint:
        """Makes an event that its own endpoint hears of, whatever it filters."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        _check_enabled(record.before)
        return await work.update(record, "tested")

    async def ReplayWebhookEndpoint(self, request: Any, work: Work) -> pb.WebhookEndpoint:
        """Has events sent again: some by their ids, or a range of time in the background."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        _check_enabled(record.before)
        if bool(request.event_ids) == request.HasField("start_time"):
            raise invalid("event_ids", "name either events, or a range by its start_time")
        endpoint = RESOURCE.uuid(request.id)
        if request.event_ids:
            await self._again(work, endpoint, [UUID(each) for each in request.event_ids])
        else:
            await self._range(work, endpoint, request)
        await work.execute(WAKE, {"endpoint": endpoint})
        return await work.update(record, "replayed")

    async def _again(self, work: Work, endpoint: UUID, events: list[UUID]) -> None:
        found = {row.event_id for row in await work.rows(_AGAIN, {"endpoint": endpoint, "events": events})}
        for index, each in enumerate(events):
            if each not in found:
                raise invalid(f"event_ids[{index}]", "it has no delivery to this endpoint; a range of time finds it")

    async def _range(self, work: Work, endpoint: UUID, request: Any) -> None:
        now = await work.now()
        start = moment(request.start_time)
        end = min(moment(request.end_time), now) if request.HasField("end_time") else now
        if start >= end:
            raise invalid("start_time", "the range begins after it ends", Reason.REASON_TIME_INVALID)
        if (await work.rows(_UNDER_WAY, {"endpoint": endpoint}))[0].n >= _REPLAYS:
            raise Exhausted(Reason.REASON_OVERLOADED, f"{_REPLAYS} replays of this endpoint are under way", retry_s=10)
        values = {
            "id": ids.new_uuid(),
            "endpoint_id": endpoint,
            "start_time": start,
            "end_time": end,
            "undelivered_only": request.undelivered_only,
            # A ledger that is not named any more has been read to the end; one at -1 is found by its time first.
            "positions": dict.fromkeys(LEDGERS, -1),
        }
        await work.execute(_BEGIN_REPLAY, values)

    async def ListWebhookDeliveries(self, request: Any, tx: View) -> pb.ListWebhookDeliveriesResponse:
        """What was sent to an endpoint or waits to be, the latest event first."""
        await tx.get(RESOURCE, request.id)
        return await log.page(self.platform.sealer, request, RESOURCE.uuid(request.id), tx)


async def disable(work: Work, record: Record[pb.WebhookEndpoint], reason: str) -> pb.WebhookEndpoint:
    """Disables an endpoint in a unit of work, for a reason that its owner reads."""
    record.after.state = pb.WEBHOOK_STATE_DISABLED
    record.after.state_reason = reason
    record.after.state_time.CopyFrom(timestamp(await work.now()))
    return await work.update(record, "disabled")


def _check_enabled(endpoint: pb.WebhookEndpoint) -> None:
    if endpoint.state == pb.WEBHOOK_STATE_DISABLED:
        raise Precondition(Reason.REASON_STATE_INVALID, f"{endpoint.id} is disabled; enable it first")


def _with_secret(request: Any, endpoint: pb.WebhookEndpoint, secret: str, work: Work) -> pb.WebhookEndpoint:
    """The endpoint with its secret, for the first answer alone."""
    work.remembered = endpoint
    if request.validate_only:
        return endpoint
    answer = pb.WebhookEndpoint()
    answer.CopyFrom(endpoint)
    answer.secret = secret
    return answer
