"""What comes of a proposal: its change is made once, whoever stops half-way, or it expires.

A proposal is accepted in a transaction of its own; then its call is made, with the proposal's own UUID as request id,
so that a repetition after a crash gets the first answer; then how it went is written. The timer goes on where that was
interrupted.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from crm.gateway.v1 import proposal_pb2 as pb
from sqlalchemy import func, select

from chassis import telemetry
from chassis.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Denied,
    Exhausted,
    Failure,
    Internal,
    Reason,
    Unauthenticated,
    Unavailable,
)
from chassis.resource import Record
from chassis.rows import moment, timestamp
from chassis.service import IDEMPOTENCY_LIFE, Platform
from chassis.work import Work
from gateway.identity.later import caller_now
from gateway.proposals import foresight
from gateway.proposals.methods import proposable
from gateway.proposals.record import RESOURCE, acceptance, contents_of, end, forget, schedule
from gateway.proposals.tables import contents

# How long whoever makes the change has before somebody else looks.
LEASE: Final = dt.timedelta(seconds=10)
_CALL_S: Final = 8.0
_POLL_S: Final = 1.0
_AT_ONCE: Final = 50
_PASSING: Final = (Unavailable, DeadlineExceeded, Exhausted, Aborted, Cancelled, Internal, Unauthenticated)
# Past this the services may have forgotten a first attempt, and a further one might do the same again.
_GIVE_UP: Final = IDEMPOTENCY_LIFE / 2

log = telemetry.logger()

_DUE = (
    select(contents.c.tenant_id, contents.c.proposal_id)
    .where(contents.c.due_time <= func.now())
    .order_by(contents.c.due_time)
    .limit(_AT_ONCE)
)


async def apply(platform: Platform, tenant: UUID, proposal: UUID) -> pb.Proposal:
    """Makes the change of an accepted proposal; the answer is the proposal as it is then."""
    async with platform.db.write(tenant) as tx:
        work = Work(tx)
        record = await work.get(RESOURCE, RESOURCE.id_of(proposal))
        kept, caller, now = await contents_of(tx, proposal), None, await tx.now()
        if kept is not None and record.state == pb.PROPOSAL_STATE_ACCEPTED:
            caller = await caller_now(tx, kept)
            if caller is not None:
                caller = replace(caller, cause=await acceptance(tx, proposal))
            await schedule(tx, proposal, now + LEASE)
    if kept is None or record.state != pb.PROPOSAL_STATE_ACCEPTED:
        return record
    method = proposable()[record.method]
    request: Any = method.request.FromString(kept.request)
    request.request_id = str(proposal)
    try:
        if caller is None:
            raise Denied(Reason.REASON_PERMISSION_DENIED, "whoever proposed it may no longer call")
        answer = await platform.channels.unary(
            method.home, method.path, request.SerializeToString(), caller=caller, timeout_s=_CALL_S
        )
    except Failure as failure:
        if passes(failure) and now - moment(record.decide_time) < _GIVE_UP:
            log.info("a proposal waits", proposal=record.id, exc_info=failure)
            return record
        return await _settle(platform, tenant, proposal, failure)
    made = [each.id for each in foresight.records_of(method.response.FromString(answer))]
    return await _settle(platform, tenant, proposal, made)


def passes(failure: Failure) -> bool:
    """Whether another attempt may not meet this failure."""
    return isinstance(failure, _PASSING) and failure.reason not in (
        Reason.REASON_ETAG_MISMATCH,
        Reason.REASON_TOO_LARGE,
    )


async def fail(work: Work, record: Record[pb.Proposal], failure: Failure) -> pb.Proposal:
    """Writes that the change of an accepted proposal could not be made."""
    record.after.state = pb.PROPOSAL_STATE_FAILED
    record.after.failure = f"{failure.reason_name}: {failure.message}"
    return await end(work, record, "failed")


async def _settle(platform: Platform, tenant: UUID, proposal: UUID, how: list[str] | Failure) -> pb.Proposal:
    """Writes how it went, the records that there are now or a failure, unless somebody else has."""
    async with platform.db.write(tenant) as tx:
        work = Work(tx)
        record = await work.lock(RESOURCE, RESOURCE.id_of(proposal))
        if record.before.state != pb.PROPOSAL_STATE_ACCEPTED:
            return record.before
        if isinstance(how, Failure):
            found = await fail(work, record, how)
        else:
            record.after.state = pb.PROPOSAL_STATE_APPLIED
            record.after.apply_time.CopyFrom(timestamp(await work.now()))
            record.after.trace_id = telemetry.trace_id()
            record.after.entity_ids[:] = dict.fromkeys([*record.before.entity_ids, *how])
            found = await end(work, record, "applied")
        await work.flush()
    platform.wake()
    return found


async def _due(platform: Platform, tenant: UUID, proposal: UUID) -> None:
    """Does what is due about a proposal, if it still is."""
    async with platform.db.write(tenant) as tx:
        work = Work(tx)
        record = await work.lock(RESOURCE, RESOURCE.id_of(proposal))
        kept = await contents_of(tx, proposal)
        if kept is None or kept.due_time > await work.now():
            return
        accepted = record.before.state == pb.PROPOSAL_STATE_ACCEPTED
        if record.before.state == pb.PROPOSAL_STATE_PENDING:
            record.after.state = pb.PROPOSAL_STATE_EXPIRED
            await end(work, record, "expired")
            await work.flush()
        elif not accepted:
            await forget(tx, proposal)
    platform.wake()
    if accepted:
        await apply(platform, tenant, proposal)


async def proposals(platform: Platform) -> None:
    """Goes on with accepted proposals that were left half-way, ends those that nobody decided about, for ever."""
    while True:
        due = [(row.tenant_id, row.proposal_id) for row in await platform.db.due(_DUE)]
        for tenant, proposal in due:
            try:
                with telemetry.span("proposals"):
                    await _due(platform, tenant, proposal)
            except Failure as failure:
                log.info("a proposal waits", proposal=str(proposal), exc_info=failure)
        await asyncio.sleep(_POLL_S)
