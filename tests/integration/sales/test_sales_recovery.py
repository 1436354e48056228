"""Conversions that begin while contacts is down: nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from crm.contacts.v1 import contact_pb2
from crm.sales.v1 import lead_pb2

from chassis.clients import service_caller
from chassis.errors import Failure, NotFound, Precondition, Reason, Unavailable
from chassis.rows import timestamp
from services.sales.recovery import recovery
from tests.integration.sales.customers import WON, WON_THEN, convert, new_lead, records
from tests.integration.sales.house import House, Tenant, contacts_running, in_contacts, until


async def converted(sales: Tenant, lead: lead_pb2.Lead) -> lead_pb2.Lead | None:
    found: lead_pb2.Lead = await sales.call("LeadService/GetLead", id=lead.id)
    return found if found.status == lead_pb2.LEAD_STATUS_CONVERTED else None


async def restored(sales: Tenant, lead: lead_pb2.Lead) -> bool:
    found = await sales.call("LeadService/GetLead", id=lead.id)
    return bool(found.status == lead_pb2.LEAD_STATUS_OPEN)


async def reached(sales: Tenant) -> bool:
    """Whether the channel to contacts has found it again."""
    path = "/crm.contacts.v1.ContactService/GetContact"
    request = contact_pb2.GetContactRequest(id="contact_01h455vb4pex5vsknk084sn02q")
    try:
        await sales.server.platform.channels.call(
            path, request, contact_pb2.Contact.FromString, caller=service_caller("sales", sales.id)
        )
    except NotFound:
        return True
    except Failure:
        return False
    return False


async def test_a_lead_under_conversion_cannot_be_deleted_nor_disqualified(sales: Tenant) -> None:
    lead = await new_lead(sales)
    with pytest.raises(Unavailable):
        await convert(sales, lead)
    for method in ("DeleteLead", "DisqualifyLead"):
        with pytest.raises(Precondition) as refused:
            await sales.call(f"LeadService/{method}", id=lead.id)
        assert refused.value.reason == Reason.REASON_STATE_INVALID
    with pytest.raises(Precondition) as conflict:
        await convert(sales, lead, skip_deal=True)
    assert conflict.value.reason == Reason.REASON_CONVERSION_CONFLICT


async def test_recovery_finishes_what_a_caller_began_and_the_caller_gets_that_answer(
    sales: Tenant, house: House
) -> None:
    lead = await new_lead(sales, given_name="Ana", company_name="Acme")
    request_id = str(uuid4())
    with pytest.raises(Unavailable, match="goes on by itself"):
        await convert(sales, lead, close=WON_THEN, occur_time=timestamp(WON), request_id=request_id)
    assert (await sales.call("LeadService/GetLead", id=lead.id)).status == lead_pb2.LEAD_STATUS_CONVERTING
    timer = asyncio.create_task(recovery(sales.server.platform))
    try:
        async with contacts_running(house):
            done = await until(lambda: converted(sales, lead))
    finally:
        timer.cancel()
    answer = await convert(sales, lead, close=WON_THEN, occur_time=timestamp(WON), request_id=request_id)
    assert answer.lead == done
    assert answer.deal.close_time == timestamp(WON)
    revisions = (await sales.call("LeadService/ListLeadRevisions", id=lead.id)).revisions
    assert [each.revision.actor for each in revisions] == [sales.principal] * 3
    assert [each.revision.occur_time for each in revisions[:2]] == [timestamp(WON)] * 2


async def test_the_same_call_again_joins_the_conversion(sales: Tenant, house: House) -> None:
    lead = await new_lead(sales)
    with pytest.raises(Unavailable):
        await convert(sales, lead, etag=lead.etag)
    async with contacts_running(house):
        await until(lambda: reached(sales))
        answer = await convert(sales, lead, etag=lead.etag)
    assert answer.lead.status == lead_pb2.LEAD_STATUS_CONVERTED


async def test_recovery_takes_back_what_is_refused_for_good(sales: Tenant, house: House) -> None:
    lead = await new_lead(sales)
    with pytest.raises(Unavailable):
        await convert(sales, lead, company_id="company_01h455vb4pex5vsknk084sn02q")
    timer = asyncio.create_task(recovery(sales.server.platform))
    try:
        async with contacts_running(house) as contacts:
            await until(lambda: restored(sales, lead))
            assert not await records(in_contacts(contacts, sales), "Contacts")
    finally:
        timer.cancel()
    assert await sales.ledger(lead.id) == [("created", 1), ("converting", 2), ("restored", 3)]


async def test_two_recoveries_finish_a_conversion_once(sales: Tenant, house: House) -> None:
    leads = [await new_lead(sales, given_name=f"Ana {number}") for number in range(5)]
    for lead in leads:
        with pytest.raises(Unavailable):
            await convert(sales, lead)
    timers = [asyncio.create_task(recovery(sales.server.platform)) for _ in range(2)]
    try:
        async with contacts_running(house) as contacts:
            for lead in leads:
                await until(lambda lead=lead: converted(sales, lead))
            assert len(await records(in_contacts(contacts, sales), "Contacts")) == 5
    finally:
        for timer in timers:
            timer.cancel()
    assert len((await sales.call("DealService/ListDeals")).deals) == 5
