"""Leads and conversions, as the tests of both ask for them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from crm.sales.v1 import deal_pb2, lead_pb2
from google.type.money_pb2 import Money

from chassis.rows import timestamp
from tests.integration.sales.house import Tenant

CONTACTED = dt.datetime(2018, 3, 1, 12, tzinfo=dt.UTC)
WON = dt.datetime(2018, 3, 9, 12, tzinfo=dt.UTC)
BRL = Money(currency_code="BRL", units=5_000)
WON_THEN = deal_pb2.DealClose(won=deal_pb2.DealWon())


async def new_lead(sales: Tenant, **fields: Any) -> lead_pb2.Lead:
    lead = lead_pb2.Lead(**(fields or {"given_name": "Ana", "family_name": "Souza", "email": "ana@acme.example"}))
    made: lead_pb2.Lead = await sales.call("LeadService/CreateLead", lead=lead, occur_time=timestamp(CONTACTED))
    return made


async def convert(sales: Tenant, lead: lead_pb2.Lead, **fields: Any) -> lead_pb2.ConvertLeadResponse:
    answer: lead_pb2.ConvertLeadResponse = await sales.call("LeadService/ConvertLead", id=lead.id, **fields)
    return answer


async def records(contacts: Tenant, plural: str) -> Any:
    service = {"Contacts": "Contact", "Companies": "Company", "Affiliations": "Affiliation"}[plural]
    return getattr(await contacts.call(f"{service}Service/List{plural}"), plural.lower())
