"""Turning leads into customers: all or nothing, once, whatever fails in between."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from crm.contacts.v1 import company_pb2, contact_pb2
from crm.contacts.v1.reach_pb2 import EmailAddress
from crm.sales.v1 import deal_pb2, lead_pb2

from chassis.errors import Aborted, Denied, Invalid, NotFound, Precondition, Reason
from chassis.rows import timestamp
from chassis.service import Server
from tests.integration.sales.customers import BRL, CONTACTED, WON, WON_THEN, convert, new_lead, records
from tests.integration.sales.house import Tenant, in_contacts


@pytest.mark.parametrize(
    ("lead", "name"),
    [
        ({"given_name": "Ana", "family_name": "Souza", "company_name": "Acme"}, "Ana Souza"),
        ({"company_name": "Acme", "email": "ana@acme.example"}, "Acme"),
        ({"email": "ana@ACME.example"}, "ana@acme.example"),
        ({"external_ids": [{"system": "olist", "id": "77"}]}, "77"),
        ({"phone": "+55 11 98765-4321"}, "+5511987654321"),
        ({"phone": "98765-4321"}, "98765-4321"),
    ],
)
async def test_a_lead_is_called_by_the_best_it_says(sales: Tenant, lead: dict[str, Any], name: str) -> None:
    made = await new_lead(sales, **lead)
    assert made.display_name == name
    assert made.status == lead_pb2.LEAD_STATUS_OPEN
    assert made.open_time == timestamp(CONTACTED)


@pytest.mark.parametrize("lead", [{"source": "social"}, {"email": "nobody"}, {"company_domain": "not a domain"}])
async def test_a_lead_that_says_nobody_or_nonsense_is_refused(sales: Tenant, lead: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await new_lead(sales, **lead)


async def test_a_disqualified_lead_tells_why_and_stays_so(sales: Tenant) -> None:
    lead = await new_lead(sales)
    made = await sales.call("LeadService/DisqualifyLead", id=lead.id, reason="no budget", occur_time=timestamp(WON))
    assert (made.status, made.disqualify_reason) == (lead_pb2.LEAD_STATUS_DISQUALIFIED, "no budget")
    assert made.disqualify_time == timestamp(WON)
    for call in (sales.call("LeadService/DisqualifyLead", id=lead.id), convert(sales, lead)):
        with pytest.raises(Precondition) as refused:
            await call
        assert refused.value.reason == Reason.REASON_STATE_INVALID


async def test_a_lead_becomes_a_contact_a_company_and_a_won_deal_at_the_time_of_the_win(
    sales: Tenant, contacts_server: Server
) -> None:
    contacts = in_contacts(contacts_server, sales)
    fields = {"given_name": "Ana", "email": "ana@acme.example", "phone": "+5511987654321", "company_name": "Acme"}
    lead = await new_lead(sales, **fields, company_domain="acme.example", source="social")
    deal = deal_pb2.Deal(amount=BRL)
    answer = await convert(sales, lead, deal=deal, close=WON_THEN, occur_time=timestamp(WON))

    assert answer.lead.status == lead_pb2.LEAD_STATUS_CONVERTED
    assert answer.lead.convert_time == timestamp(WON)
    assert answer.lead.converted_contact_id == answer.contact_id
    assert answer.lead.converted_deal_id == answer.deal.id
    assert (answer.deal.state, answer.deal.amount, answer.deal.source) == (deal_pb2.DEAL_STATE_WON, BRL, "social")
    assert answer.deal.close_time == answer.deal.open_time == timestamp(WON)
    assert (answer.deal.lead_id, answer.deal.contact_id, answer.deal.display_name) == (
        lead.id,
        answer.contact_id,
        "Ana",
    )
    contact = (await records(contacts, "Contacts"))[0]
    assert (contact.id, contact.given_name, contact.emails[0].address) == (answer.contact_id, "Ana", "ana@acme.example")
    company = (await records(contacts, "Companies"))[0]
    assert (company.id, company.display_name, company.domain) == (answer.company_id, "Acme", "acme.example")
    link = (await records(contacts, "Affiliations"))[0]
    assert (link.contact_id, link.company_id) == (contact.id, company.id)
    assert await sales.ledger(lead.id) == [("created", 1), ("converting", 2), ("converted", 3)]
    assert await sales.ledger(answer.deal.id) == [("created", 1), ("won", 2)]
    assert answer.lead == await sales.call("LeadService/GetLead", id=lead.id)
    assert answer.deal == await sales.call("DealService/GetDeal", id=answer.deal.id)


async def test_a_win_before_the_first_contact_is_kept_as_it_was(sales: Tenant, contacts_server: Server) -> None:
    lead = await new_lead(sales)
    before = timestamp(CONTACTED - dt.timedelta(days=2))
    answer = await convert(sales, lead, close=WON_THEN, occur_time=before)
    assert answer.lead.convert_time == answer.deal.close_time == before
    assert answer.lead.open_time == timestamp(CONTACTED)


async def test_people_and_companies_that_exist_are_used_as_they_are(sales: Tenant, contacts_server: Server) -> None:
    contacts = in_contacts(contacts_server, sales)
    known = await contacts.call(
        "ContactService/CreateContact",
        contact=contact_pb2.Contact(given_name="Ana Maria", emails=[EmailAddress(address="ana@acme.example")]),
    )
    acme = company_pb2.Company(display_name="Acme Ltd", domain="acme.example")
    company = await contacts.call("CompanyService/CreateCompany", company=acme)
    answers = [
        await convert(sales, await new_lead(sales, given_name=name, email=email, company_domain="acme.example"))
        for name, email in (("Ana", "ana@acme.example"), ("Bia", "bia@acme.example"))
    ]
    assert answers[0].contact_id == known.id != answers[1].contact_id
    assert [answer.company_id for answer in answers] == [company.id, company.id]
    assert (await contacts.call("ContactService/GetContact", id=known.id)).given_name == "Ana Maria"
    assert await contacts.call("CompanyService/GetCompany", id=company.id) == company


async def test_a_lead_converts_once_however_often_and_wherever_it_is_asked(
    sales: Tenant, contacts_server: Server
) -> None:
    lead = await new_lead(sales, given_name="Ana", email="ana@acme.example", company_name="Acme")
    request_id = str(uuid4())
    other = replace(sales, principal="user_01h455vb4pex5vsknk084sn03r")
    answers = await asyncio.gather(
        convert(sales, lead, request_id=request_id),
        convert(sales, lead, request_id=request_id),
        convert(sales, lead),
        convert(other, lead, request_id=str(uuid4())),
    )
    later = [await convert(sales, lead), await convert(sales, lead, request_id=request_id)]
    assert all(answer == answers[0] for answer in (*answers, *later))
    assert await sales.ledger(lead.id) == [("created", 1), ("converting", 2), ("converted", 3)]
    assert len((await sales.call("DealService/ListDeals")).deals) == 1
    contacts = in_contacts(contacts_server, sales)
    counts = [len(await records(contacts, plural)) for plural in ("Contacts", "Companies", "Affiliations")]
    assert counts == [1, 1, 1]


async def test_another_wish_for_a_converted_lead_is_a_conflict(sales: Tenant, contacts_server: Server) -> None:
    lead = await new_lead(sales)
    await convert(sales, lead)
    with pytest.raises(Precondition) as refused:
        await convert(sales, lead, skip_deal=True)
    assert refused.value.reason == Reason.REASON_CONVERSION_CONFLICT


async def test_a_conversion_without_a_deal_makes_none(sales: Tenant, contacts_server: Server) -> None:
    answer = await convert(sales, await new_lead(sales), skip_deal=True)
    assert answer.contact_id
    assert not answer.HasField("deal")
    assert not answer.lead.converted_deal_id
    assert not (await sales.call("DealService/ListDeals")).deals


@pytest.mark.parametrize("missing", ["contacts.write", "companies.write", "affiliations.write", "deals.write"])
async def test_every_step_needs_its_permission_before_anything_is_written(sales: Tenant, missing: str) -> None:
    lead = await new_lead(sales)
    needed = {"leads.convert", "contacts.write", "companies.write", "affiliations.write", "deals.write"}
    with pytest.raises(Denied, match=missing):
        await convert(replace(sales, scopes=frozenset(needed - {missing})), lead)
    assert await sales.ledger(lead.id) == [("created", 1)]


async def test_a_deal_that_cannot_be_made_is_refused_before_anything_is_written(sales: Tenant) -> None:
    lead = await new_lead(sales)
    wrong = deal_pb2.Deal(stage_id="stage_01h455vb4pex5vsknk084sn02q")
    with pytest.raises(Invalid) as refused:
        await convert(sales, lead, deal=wrong)
    assert refused.value.reason == Reason.REASON_STAGE_INVALID
    assert await sales.ledger(lead.id) == [("created", 1)]


async def test_validate_only_shows_the_conversion_and_writes_nothing(sales: Tenant) -> None:
    lead = await new_lead(sales)
    answer = await convert(sales, lead, close=WON_THEN, validate_only=True)
    assert answer.lead.status == lead_pb2.LEAD_STATUS_CONVERTED
    assert answer.deal.state == deal_pb2.DEAL_STATE_WON
    assert await sales.ledger(lead.id) == [("created", 1)]
    assert not (await sales.call("DealService/ListDeals")).deals


async def test_what_contacts_refuses_for_good_leaves_the_lead_as_it_was(sales: Tenant, contacts_server: Server) -> None:
    contacts = in_contacts(contacts_server, sales)
    lead = await new_lead(sales, given_name="Ana", email="ana@acme.example")
    with pytest.raises(NotFound, match="company_id: there is no company"):
        await convert(sales, lead, company_id="company_01h455vb4pex5vsknk084sn02q")
    restored = await sales.call("LeadService/GetLead", id=lead.id)
    assert restored.status == lead_pb2.LEAD_STATUS_OPEN
    assert await sales.ledger(lead.id) == [("created", 1), ("converting", 2), ("restored", 3)]
    assert not await records(contacts, "Contacts")
    assert not (await sales.call("DealService/ListDeals")).deals

    answer = await convert(sales, lead)
    assert answer.lead.status == lead_pb2.LEAD_STATUS_CONVERTED
    assert [contact.id for contact in await records(contacts, "Contacts")] == [answer.contact_id]


async def test_a_refusal_that_two_callers_meet_is_taken_back_once(sales: Tenant, contacts_server: Server) -> None:
    lead = await new_lead(sales)
    wish = {"company_id": "company_01h455vb4pex5vsknk084sn02q"}
    answers = await asyncio.gather(*(convert(sales, lead, **wish) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, (NotFound, Aborted)) for answer in answers)
    verbs = [verb for verb, _ in await sales.ledger(lead.id)]
    # A caller who comes when it is taken back begins anew, and is refused as well.
    assert verbs[0] == "created"
    assert set(zip(verbs[1::2], verbs[2::2], strict=True)) == {("converting", "restored")}
    assert not await records(in_contacts(contacts_server, sales), "Contacts")


async def test_a_refusal_leaves_alone_what_existed_before(sales: Tenant, contacts_server: Server) -> None:
    contacts = in_contacts(contacts_server, sales)
    known = await contacts.call(
        "ContactService/CreateContact",
        contact=contact_pb2.Contact(given_name="Ana", emails=[EmailAddress(address="ana@acme.example")]),
    )
    lead = await new_lead(sales)
    with pytest.raises(NotFound):
        await convert(sales, lead, company_id="company_01h455vb4pex5vsknk084sn02q")
    assert [contact.id for contact in await records(contacts, "Contacts")] == [known.id]


async def test_two_people_with_the_leads_address_are_too_many(sales: Tenant, contacts_server: Server) -> None:
    contacts = in_contacts(contacts_server, sales)
    for name in ("Ana", "Bia"):
        info = contact_pb2.Contact(given_name=name, emails=[EmailAddress(address="info@acme.example")])
        await contacts.call("ContactService/CreateContact", contact=info)
    lead = await new_lead(sales, email="info@acme.example")
    with pytest.raises(Precondition, match="the lead's contact: the keys match 2 records") as refused:
        await convert(sales, lead)
    assert refused.value.reason == Reason.REASON_AMBIGUOUS_KEY
    one = (await records(contacts, "Contacts"))[0].id
    assert (await convert(sales, lead, contact_id=one)).contact_id == one
