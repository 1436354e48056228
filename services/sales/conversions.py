"""Conversions: how a lead becomes a contact, a company and a deal in two services, all or nothing.

Three steps, each safe to repeat: ``_begin`` checks everything and writes a row, ``Customer.settle`` makes or finds the
people in contacts, ``_finish`` makes the deal and ends it in one transaction. What is left half-way is finished by
``recovery.py``, or by the next caller who asks for the same. A refusal that will not pass is undone.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from crm.sales.v1 import deal_pb2
from crm.sales.v1 import lead_pb2 as pb
from sqlalchemy import bindparam, delete, insert, select, update

from chassis import context, contract, ids, telemetry
from chassis.checks import clear_output_only
from chassis.context import Call, Caller
from chassis.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Denied,
    Exhausted,
    Failure,
    Internal,
    Precondition,
    Reason,
    Unauthenticated,
    Unavailable,
    invalid,
)
from chassis.resource import Record
from chassis.rows import timestamp, uuid_of
from chassis.service import IdempotencyKey, Platform, idempotency_key
from chassis.sql import Row
from chassis.work import Work, check_lock
from services.sales.customers import Customer, check_in_sight, take_back
from services.sales.deals import close, deals
from services.sales.lead_records import leads
from services.sales.tables import conversions

PATH: Final = "/crm.sales.v1.LeadService/ConvertLead"
_PERMISSIONS: Final = ("contacts.write", "companies.write", "affiliations.write", "deals.write")
# What the later steps may do, once the caller was found to be allowed all of it.
_SCOPES: Final = frozenset({"leads.*", "deals.*", "pipelines.*", "contacts.*", "companies.*", "affiliations.*"})
# Failures that another attempt may not meet.
_PASSING: Final = (Unavailable, DeadlineExceeded, Exhausted, Aborted, Cancelled, Internal, Unauthenticated)

_BEGUN, UNDOING, _DONE = 1, 2, 3
_LONGEST_WAIT_S: Final = 15.0

_mine = (conversions.c.tenant_id == bindparam("tenant"), conversions.c.lead_id == bindparam("of_lead"))
THIS_ROW = (*_mine, conversions.c.id == bindparam("conversion"))
_READ = select(conversions).where(*_mine)
_INSERT = insert(conversions).values(tenant_id=bindparam("tenant"))
_UNDO = (
    update(conversions).where(*THIS_ROW, conversions.c.step == _BEGUN).values(step=UNDOING, made=bindparam("made_ids"))
)
_POSTPONE = update(conversions).where(*THIS_ROW, conversions.c.step != _DONE).values(due_time=bindparam("due"))
_DELETE = delete(conversions).where(*THIS_ROW)
_DONE_WITH = (
    update(conversions)
    .where(*THIS_ROW)
    .values(step=_DONE, response=bindparam("answer"), request=b"", lead=b"", due_time=None)
)


@dataclass(frozen=True)
class Conversion:
    """A conversion under way: what its later steps need."""

    id: UUID
    principal: str
    occur_time: dt.datetime
    deal_id: UUID | None
    request: pb.ConvertLeadRequest
    lead: pb.Lead
    step: int = _BEGUN
    made: tuple[str, ...] = ()
    trace_context: str = ""
    attempts: int = 0

    def names(self) -> dict[str, Any]:
        """The parameters that find its row."""
        return {"of_lead": uuid_of(self.lead.id), "conversion": self.id}


class _Rehearsed(Exception):
    """Ends the transaction of a validate_only call without a trace."""

    def __init__(self, response: pb.ConvertLeadResponse) -> None:
        self.response = response


async def convert(platform: Platform, request: pb.ConvertLeadRequest, call: Call) -> pb.ConvertLeadResponse:
    """Converts a lead, or joins or repeats the answer of a conversion that was asked for with the same message."""
    for permission in _PERMISSIONS:
        if not call.caller.may(permission):
            raise Denied(
                Reason.REASON_PERMISSION_DENIED,
                f"a conversion also needs the permission '{permission}'",
                metadata={"permission": permission},
            )
    _check(request)
    if call.caller.access is not None:
        # What comes next acts for the conversion and finds any customer; only one in sight may be named.
        who = replace(actor(call.caller.tenant, call.caller.principal), access=call.caller.access)
        with context.enter(replace(call, caller=who)):
            await check_in_sight(platform.channels, request)
    try:
        begun = await _begin(platform, request, call)
    except _Rehearsed as rehearsed:
        return rehearsed.response
    if isinstance(begun, pb.ConvertLeadResponse):
        return begun
    key = idempotency_key(request, contract.load().methods[PATH], call)
    with context.enter(replace(call, caller=actor(call.caller.tenant, begun.principal))):
        return await carry_on(platform, begun, key)


def _check(request: pb.ConvertLeadRequest) -> None:
    if request.HasField("deal"):
        clear_output_only(request.deal)
    for name in ("deal", "close"):
        if request.skip_deal and request.HasField(name):
            raise invalid(name, "skip_deal says that no deal is made")


def actor(tenant: UUID, principal: str) -> Caller:
    """This service, acting for the principal who asked."""
    return Caller(tenant, principal, _SCOPES, issuer="sales", act="sales")


def _digest(request: pb.ConvertLeadRequest) -> bytes:
    """What makes two requests the same wish; a lead's etag is another one as soon as its conversion begins."""
    bare = pb.ConvertLeadRequest()
    bare.CopyFrom(request)
    for name in ("request_id", "etag", "validate_only"):
        bare.ClearField(name)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


async def _begin(platform: Platform, request: pb.ConvertLeadRequest, call: Call) -> Conversion | pb.ConvertLeadResponse:
    """Writes down what is to be done, after everything about it was checked; or finds that it was begun or done."""
    method = contract.load().methods[PATH]
    key = idempotency_key(request, method, call)
    async with platform.db.write(call.caller.tenant) as tx:
        work = Work(tx, method)
        lead = await work.lock(leads, request.id, deleted=True)
        if key is not None and (remembered := await key.look_up(tx)) is not None:
            return pb.ConvertLeadResponse.FromString(remembered)
        if rows := await work.rows(_READ, {"of_lead": uuid_of(request.id)}):
            return await _join(work, rows[0], request, key)
        check_lock(lead, request.etag)
        _require_open(lead.before)
        conversion = Conversion(
            id=ids.new_uuid(),
            principal=call.caller.principal,
            occur_time=await work.happened(leads, request.occur_time),
            deal_id=None if request.skip_deal else ids.new_uuid(),
            request=request,
            lead=lead.before,
            trace_context=telemetry.traceparent(),
        )
        mark = work.changed
        deal = await _make_deal(work, conversion, request.contact_id, request.company_id)
        work.forget_since(mark)
        if request.validate_only:
            converted = await _converted(work, lead, conversion, request.contact_id, request.company_id)
            raise _Rehearsed(_response(converted, deal))
        lead.after.status = pb.LEAD_STATUS_CONVERTING
        await work.update(lead, "converting", occur_time=conversion.occur_time)
        await work.flush(key.request_id if key else None)
        lease = await work.now() + dt.timedelta(seconds=call.remaining_s() + 1)
        await work.execute(_INSERT, _row(conversion, _digest(request), lease))
    platform.wake()
    return conversion


def _require_open(lead: pb.Lead) -> None:
    if lead.status != pb.LEAD_STATUS_OPEN:
        status = pb.LeadStatus.Name(lead.status).removeprefix("LEAD_STATUS_").lower()
        raise Precondition(Reason.REASON_STATE_INVALID, f"only an open lead can be converted; it is {status}")


async def _join(
    work: Work, row: Row, request: pb.ConvertLeadRequest, key: IdempotencyKey | None
) -> Conversion | pb.ConvertLeadResponse:
    if row.digest != _digest(request):
        state = "was converted" if row.step == _DONE else "is being converted"
        raise Precondition(Reason.REASON_CONVERSION_CONFLICT, f"the lead {state} with another message than this one")
    if row.step == _DONE:
        response = pb.ConvertLeadResponse.FromString(row.response)
        await _remember(work, key, response)
        return response
    if row.step == UNDOING:
        raise _TakenBack
    return conversion_of(row)


class _TakenBack(Aborted):
    """The conversion that was joined is no more."""

    def __init__(self) -> None:
        super().__init__(
            Reason.REASON_CONFLICT, "the lead's conversion was refused and is taken back; try again", retry_s=1
        )


async def _remember(work: Work, key: IdempotencyKey | None, response: pb.ConvertLeadResponse) -> None:
    if key is not None and await key.look_up(work) is None:
        await work.flush(answer=key.row(response, await work.now()))


async def carry_on(platform: Platform, conversion: Conversion, key: IdempotencyKey | None) -> pb.ConvertLeadResponse:
    """Does the steps that are left. Raises the refusal, after it was undone, or Unavailable where it goes on later."""
    customer = Customer(platform.channels, conversion.id, conversion.occur_time)
    try:
        await customer.settle(conversion.request, conversion.lead)
        return await _finish(platform, conversion, customer, key)
    except _TakenBack:
        raise
    except _PASSING as failure:
        with suppress(Failure):
            await _postpone(platform, conversion)
        message = f"{failure.message}; the conversion goes on by itself, and the same call again joins it"
        raise Unavailable(Reason.REASON_UNAVAILABLE, message, retry_s=1) from failure
    except Failure:
        await _undo(platform, replace(conversion, made=tuple(customer.made)))
        raise


async def _finish(
    platform: Platform, conversion: Conversion, customer: Customer, key: IdempotencyKey | None
) -> pb.ConvertLeadResponse:
    """Makes the deal and ends the conversion, in one transaction."""
    async with platform.db.write(context.current().caller.tenant) as tx:
        work = Work(tx, contract.load().methods[PATH])
        lead = await work.lock(leads, conversion.lead.id, deleted=True)
        rows = await work.rows(_READ, conversion.names())
        if not rows or rows[0].id != conversion.id or rows[0].step == UNDOING:
            raise _TakenBack
        if rows[0].step == _DONE:
            response = pb.ConvertLeadResponse.FromString(rows[0].response)
            await _remember(work, key, response)
            return response
        # The lead first: at the same time, that is the order in which it is told.
        converted = await _converted(work, lead, conversion, customer.contact_id, customer.company_id)
        deal = await _make_deal(work, conversion, customer.contact_id, customer.company_id)
        response = _response(converted, deal)
        await work.flush(UUID(conversion.request.request_id) if conversion.request.request_id else None)
        await work.execute(_DONE_WITH, {**conversion.names(), "answer": response.SerializeToString()})
        await _remember(work, key, response)
    platform.wake()
    return response


async def _converted(
    work: Work, lead: Record[pb.Lead], conversion: Conversion, contact_id: str, company_id: str
) -> pb.Lead:
    lead.after.status = pb.LEAD_STATUS_CONVERTED
    lead.after.convert_time.CopyFrom(timestamp(conversion.occur_time))
    lead.after.converted_contact_id, lead.after.converted_company_id = contact_id, company_id
    if conversion.deal_id is not None:
        lead.after.converted_deal_id = ids.encode("deal", conversion.deal_id)
    return await work.update(lead, "converted", occur_time=conversion.occur_time)


async def _make_deal(work: Work, conversion: Conversion, contact_id: str, company_id: str) -> deal_pb2.Deal | None:
    if conversion.deal_id is None:
        return None
    lead, deal = conversion.lead, deal_pb2.Deal()
    deal.CopyFrom(conversion.request.deal)
    deal.lead_id = lead.id
    found = {
        "display_name": lead.display_name,
        "owner_id": lead.owner_id,
        "source": lead.source,
        "campaign_id": lead.campaign_id,
        "contact_id": contact_id,
        "company_id": company_id,
    }
    for name, value in found.items():
        if value and not deal.HasField(name):  # type: ignore[arg-type]
            setattr(deal, name, value)
    made = await work.create(deals, deal, occur_time=conversion.occur_time, record_id=conversion.deal_id)
    if conversion.request.HasField("close"):
        how = conversion.request.close
        made = await close(work, work.record_of(deals, made), how, timestamp(conversion.occur_time))
    return made


def _response(lead: pb.Lead, deal: deal_pb2.Deal | None) -> pb.ConvertLeadResponse:
    return pb.ConvertLeadResponse(
        lead=lead, contact_id=lead.converted_contact_id, company_id=lead.converted_company_id, deal=deal
    )


async def _postpone(platform: Platform, conversion: Conversion) -> None:
    async with platform.db.write(context.current().caller.tenant) as tx:
        wait = dt.timedelta(seconds=min(2.0**conversion.attempts, _LONGEST_WAIT_S))
        await tx.execute(_POSTPONE, {**conversion.names(), "due": await tx.now() + wait})


async def _undo(platform: Platform, conversion: Conversion) -> None:
    """Marks a refused conversion, so that nobody goes on with it, and takes it back; recovery does what fails here."""
    async with platform.db.write(context.current().caller.tenant) as tx:
        if not await tx.execute(_UNDO, {**conversion.names(), "made_ids": list(conversion.made)}):
            return
    with suppress(Failure):
        await restore(platform, conversion)


async def restore(platform: Platform, conversion: Conversion) -> None:
    await take_back(platform.channels, list(conversion.made))
    async with platform.db.write(context.current().caller.tenant) as tx:
        work = Work(tx, contract.load().methods[PATH])
        lead = await work.lock(leads, conversion.lead.id, deleted=True)
        if not await work.execute(_DELETE, conversion.names()):
            return
        lead.after.status = pb.LEAD_STATUS_OPEN
        await work.update(lead, "restored")
        await work.flush()
    platform.wake()


def _row(conversion: Conversion, digest: bytes, due: dt.datetime) -> dict[str, Any]:
    return {
        "lead_id": uuid_of(conversion.lead.id),
        "id": conversion.id,
        "principal_id": conversion.principal,
        "digest": digest,
        "occur_time": conversion.occur_time,
        "deal_id": conversion.deal_id,
        "step": _BEGUN,
        "request": conversion.request.SerializeToString(),
        "lead": conversion.lead.SerializeToString(),
        "made": [],
        "response": None,
        "trace_context": conversion.trace_context,
        "attempts": 0,
        "due_time": due,
    }


def conversion_of(row: Row) -> Conversion:
    return Conversion(
        id=row.id,
        principal=row.principal_id,
        occur_time=row.occur_time,
        deal_id=row.deal_id,
        request=pb.ConvertLeadRequest.FromString(row.request),
        lead=pb.Lead.FromString(row.lead),
        step=row.step,
        made=tuple(row.made),
        trace_context=row.trace_context,
        attempts=row.attempts,
    )
