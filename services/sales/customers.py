"""The part of a conversion that happens in contacts: a lead's contact and company, made or found there."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid5

from crm.contacts.v1 import affiliation_pb2, company_pb2, contact_pb2
from crm.sales.v1 import lead_pb2 as pb
from crm.type.v1.common_pb2 import Outcome
from google.protobuf.field_mask_pb2 import FieldMask

from chassis import ids
from chassis.checks import fitting
from chassis.clients import Channels
from chassis.errors import Aborted, Failure, NotFound, Precondition, Reason, not_now
from chassis.rows import timestamp
from services.sales.reach import complete_number

# The external id by which a conversion finds again what it made.
SYSTEM: Final = "rapport.lead"
# A record that is found is used as it is; only its new external id is added.
_AS_IT_IS: Final = FieldMask(paths=["external_ids"])
_FIRST_ETAG: Final = '"1"'


@dataclass
class Customer:
    """A lead's contact and company. ``settle`` may be repeated: calls carry request ids made of ``conversion``."""

    channels: Channels
    conversion: UUID
    occur_time: dt.datetime
    contact_id: str = ""
    company_id: str = ""
    # What did not exist before, in the order of making.
    made: list[str] = field(default_factory=list)

    async def settle(self, request: pb.ConvertLeadRequest, lead: pb.Lead) -> None:
        """Makes or finds contact and company, and links them. Raises the failure of contacts where it refuses."""
        if request.contact_id:
            self.contact_id = await _existing_contact(self.channels, request.contact_id)
        else:
            self.contact_id = await self._upsert_contact(lead)
        if request.company_id:
            self.company_id = await _existing_company(self.channels, request.company_id)
        elif lead.company_name or lead.company_domain:
            self.company_id = await self._upsert_company(lead)
        if self.company_id:
            await self._link()

    async def _upsert_contact(self, lead: pb.Lead) -> str:
        contact = contact_pb2.Contact(display_name=lead.display_name)
        for name in ("given_name", "family_name", "source", "owner_id"):
            if lead.HasField(name):
                setattr(contact, name, getattr(lead, name))
        if lead.email:
            contact.emails.add(address=lead.email)
        if number := complete_number(lead.phone):
            contact.phones.add(number=number)
        contact.external_ids.add(system=SYSTEM, id=lead.id)
        batch = contact_pb2.BatchUpsertContactsRequest(atomic=True, request_id=self._request_id("contact"))
        batch.requests.add(contact=contact, update_mask=_AS_IT_IS, occur_time=timestamp(self.occur_time))
        path = "/crm.contacts.v1.ContactService/BatchUpsertContacts"
        answer = await _call(self.channels, path, batch, contact_pb2.BatchUpsertContactsResponse, "the lead's contact")
        return self._note(answer.results[0].contact.id, answer.results[0].outcome)

    async def _upsert_company(self, lead: pb.Lead) -> str:
        name = fitting(company_pb2.Company, "display_name", lead.company_name or lead.company_domain)
        company = company_pb2.Company(display_name=name)
        if lead.company_domain:
            # Others of the company may become customers too: it is known by its domain, not by each of its leads.
            company.domain = lead.company_domain
        else:
            company.external_ids.add(system=SYSTEM, id=lead.id)
        if lead.owner_id:
            company.owner_id = lead.owner_id
        batch = company_pb2.BatchUpsertCompaniesRequest(atomic=True, request_id=self._request_id("company"))
        batch.requests.add(company=company, update_mask=_AS_IT_IS, occur_time=timestamp(self.occur_time))
        path = "/crm.contacts.v1.CompanyService/BatchUpsertCompanies"
        answer = await _call(self.channels, path, batch, company_pb2.BatchUpsertCompaniesResponse, "the lead's company")
        return self._note(answer.results[0].company.id, answer.results[0].outcome)

    async def _link(self) -> None:
        link = affiliation_pb2.Affiliation(contact_id=self.contact_id, company_id=self.company_id)
        batch = affiliation_pb2.BatchUpsertAffiliationsRequest(atomic=True, request_id=self._request_id("affiliation"))
        batch.requests.add(affiliation=link, occur_time=timestamp(self.occur_time))
        path = "/crm.contacts.v1.AffiliationService/BatchUpsertAffiliations"
        answer = await _call(
            self.channels, path, batch, affiliation_pb2.BatchUpsertAffiliationsResponse, "the link of both"
        )
        self._note(answer.results[0].affiliation.id, answer.results[0].outcome)

    def _note(self, made_id: str, outcome: Outcome.ValueType) -> str:
        if outcome == Outcome.OUTCOME_CREATED:
            self.made.append(made_id)
        return made_id

    def _request_id(self, step: str) -> str:
        return str(uuid5(self.conversion, step))


async def check_in_sight(channels: Channels, request: pb.ConvertLeadRequest) -> None:
    """Raises NotFound where a request names a contact or company that the current caller may not see."""
    if request.contact_id:
        await _existing_contact(channels, request.contact_id)
    if request.company_id:
        await _existing_company(channels, request.company_id)


async def _existing_contact(channels: Channels, contact_id: str) -> str:
    path = "/crm.contacts.v1.ContactService/GetContact"
    request = contact_pb2.GetContactRequest(id=contact_id)
    return _alive(await _call(channels, path, request, contact_pb2.Contact, "contact_id"), "contact_id")


async def _existing_company(channels: Channels, company_id: str) -> str:
    path = "/crm.contacts.v1.CompanyService/GetCompany"
    request = company_pb2.GetCompanyRequest(id=company_id)
    return _alive(await _call(channels, path, request, company_pb2.Company, "company_id"), "company_id")


async def _call(channels: Channels, path: str, request: Any, response: type[Any], what: str) -> Any:
    try:
        return await channels.call(path, request, response.FromString)
    except Failure as failure:
        # The places that contacts names are those of a message the caller has never seen.
        failure.message = f"{what}: {failure.message.removeprefix('requests[0]: ')}"
        failure.violations = []
        raise


def _alive(record: Any, field_name: str) -> str:
    if record.HasField("delete_time"):
        raise not_now(field_name, f"{record.id} is deleted", Reason.REASON_DELETED)
    return str(record.id)


_DELETE: Final[dict[str, tuple[str, type[Any], type[Any]]]] = {
    "contact": (
        "/crm.contacts.v1.ContactService/DeleteContact", contact_pb2.DeleteContactRequest, contact_pb2.Contact,
    ),
    "company": (
        "/crm.contacts.v1.CompanyService/DeleteCompany", company_pb2.DeleteCompanyRequest, company_pb2.Company,
    ),
    "affiliation": (
        "/crm.contacts.v1.AffiliationService/DeleteAffiliation",
        affiliation_pb2.DeleteAffiliationRequest,
        affiliation_pb2.Affiliation,
    ),
}  # fmt: skip


async def take_back(channels: Channels, made: list[str]) -> None:
    """Deletes what a conversion made, the last first, where nobody has changed it since."""
    for each in reversed(made):
        path, request, response = _DELETE[ids.decode(each)[0]]
        try:
            await channels.call(path, request(id=each, etag=_FIRST_ETAG), response.FromString)
        except (NotFound, Precondition):
            continue
        except Aborted as failure:
            if failure.reason != Reason.REASON_ETAG_MISMATCH:
                raise
