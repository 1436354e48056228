"""Subscriptions that the server keeps: what is wanted, and how far it has been dealt with."""

from __future__ import annotations

from crm.gateway.v1 import event_pb2
from crm.gateway.v1 import subscription_pb2 as pb
from sqlalchemy import bindparam, update

from chassis import context
from chassis.context import Call, Caller
from chassis.db import Database, Tx
from chassis.errors import Denied, Precondition, Reason, invalid
from chassis.resource import Resource
from chassis.rows import moment, timestamp
from chassis.service import Service, saga
from chassis.sql import Row
from chassis.work import Work
from gateway.identity.tables import schema
from gateway.live import replay
from gateway.live.wanted import check_wanted

subscriptions = schema.record(pb.Subscription)

_PERMISSION = "subscriptions.read"
# A place is noted on the row alone: a revision and an event for each would be events about events, without end.
_NOTE = (
    update(subscriptions)
    .where(subscriptions.c.tenant_id == bindparam("tenant"), subscriptions.c.id == bindparam("subscription"))
    .values(cursor=bindparam("place"), commit_time=bindparam("at"), record=bindparam("kept"))
)


async def prepare(work: Work, subscription: pb.Subscription, before: pb.Subscription | None) -> None:
    """Checks the filters, and lets it begin when it was made where it does not say."""
    check_wanted(subscription, context.current().caller)
    if not subscription.HasField("start_time"):
        subscription.start_time.CopyFrom(subscription.create_time)


RESOURCE = Resource(pb.Subscription, subscriptions, prepare=prepare)


class KeptSubscriptions(Service, serves="crm.gateway.v1.SubscriptionService"):
    """Subscriptions by their standard methods, and the places they keep."""

    resource = RESOURCE

    @saga
    async def CommitSubscription(self, request: pb.CommitSubscriptionRequest, call: Call) -> pb.Subscription:
        """Keeps a place, unless it lies before the one that is kept."""
        sealer, tenant = self.platform.sealer, call.caller.tenant
        place = replay.unseal(sealer, tenant, request.replay_id)
        async with self.platform.db.write(tenant) as tx:
            record = _live(await tx.rows(RESOURCE.lock_one, {"id": RESOURCE.uuid(request.id)}), request.id)
            if record.cursor:
                before = replay.unseal(sealer, tenant, record.cursor)
                # Two consumers of one subscription may be ahead of each other in different ledgers.
                place = {ledger: max(position, before[ledger]) for ledger, position in place.items()}
                if place == before:
                    return record
            record.cursor = replay.seal(sealer, tenant, place)
            record.commit_time.CopyFrom(timestamp(await tx.now()))
            values = {"subscription": RESOURCE.uuid(request.id), "place": record.cursor}
            kept = {"at": moment(record.commit_time), "kept": record.SerializeToString()}
            await tx.execute(_NOTE, values | kept)
        return record

    async def SeekSubscription(self, request: pb.SeekSubscriptionRequest, work: Work) -> pb.Subscription:
        """Moves the place."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        after = record.after
        if request.replay_id:
            replay.unseal(self.platform.sealer, work.tenant, request.replay_id)
            after.cursor = request.replay_id
        else:
            after.start_time.CopyFrom(request.start_time)
            after.ClearField("cursor")
        after.commit_time.CopyFrom(timestamp(await work.now()))
        return await work.update(record, "sought")


async def resolved(db: Database, request: event_pb2.SubscribeRequest, caller: Caller) -> event_pb2.SubscribeRequest:
    """The request with what the subscription it names wants, from the place that it keeps.

    Raises Denied, NotFound, Precondition for a deleted one, and Invalid where the request has filters of its own.
    """
    if not caller.may(_PERMISSION):
        text = f"this needs the permission '{_PERMISSION}'"
        raise Denied(Reason.REASON_PERMISSION_DENIED, text, metadata={"permission": _PERMISSION})
    own = request.types, request.entity_ids, request.changed_fields, request.filter
    if any(own) or request.HasField("start_time"):
        raise invalid("subscription_id", "what is wanted, and from when, stands in the subscription")
    async with db.read(caller.tenant) as tx:
        record = await _read(tx, request.subscription_id)
    found = event_pb2.SubscribeRequest(
        types=record.types,
        entity_ids=record.entity_ids,
        changed_fields=record.changed_fields,
        filter=record.filter,
        replay_id=request.replay_id or record.cursor,
        snapshot=request.snapshot,
    )
    if not request.snapshot:
        found.start_time.CopyFrom(record.start_time)
    return found


async def _read(tx: Tx, subscription_id: str) -> pb.Subscription:
    found = await tx.rows(RESOURCE.read_many, {"ids": [RESOURCE.uuid(subscription_id)]})
    return _live(found, subscription_id)


def _live(rows: list[Row], subscription_id: str) -> pb.Subscription:
    if not rows:
        raise RESOURCE.missing(subscription_id)
    record = RESOURCE.read(rows[0])
    if record.HasField("delete_time"):
        raise Precondition(Reason.REASON_DELETED, f"{subscription_id} is deleted")
    return record
