"""What a lead is: the form it is kept in, what finds it, and what it must say."""

from __future__ import annotations

from collections.abc import Iterator

from crm.sales.v1 import lead_pb2 as pb

from chassis.checks import fitting
from chassis.errors import Invalid, Precondition, Reason
from chassis.keys import Key
from chassis.resource import Resource
from chassis.work import Work
from services.sales import tables
from services.sales.reach import complete_number, domain_name, email_address


def normalize(lead: pb.Lead) -> None:
    """Brings e-mail address, telephone number and domain into their kept form. Raises Invalid for what is none."""
    if lead.email:
        lead.email = email_address(lead.email)
    if lead.phone:
        lead.phone = complete_number(lead.phone) or lead.phone
    if lead.company_domain:
        lead.company_domain = domain_name(lead.company_domain)


async def prepare(_work: Work, lead: pb.Lead, before: pb.Lead | None) -> None:
    """Names and opens a new lead. Raises Invalid where nothing says who it is."""
    if before is None:
        lead.status = pb.LEAD_STATUS_OPEN
    elif lead.HasField("delete_time") and before.status == pb.LEAD_STATUS_CONVERTING:
        raise Precondition(Reason.REASON_STATE_INVALID, "the lead is being converted; it cannot be deleted now")
    if not lead.display_name:
        lead.display_name = fitting(lead, "display_name", _name(lead))


def _name(lead: pb.Lead) -> str:
    names = " ".join(filter(None, (lead.given_name, lead.family_name)))
    name = names or lead.company_name or lead.email or (lead.external_ids[0].id if lead.external_ids else lead.phone)
    if not name:
        message = "a lead needs a name, a company name, an e-mail address, a telephone number or an external id"
        raise Invalid(Reason.REASON_FIELD_REQUIRED, message, violations=[("display_name", message)])
    return name


def keys(lead: pb.Lead) -> Iterator[Key]:
    """A lead is also found by its e-mail address; several may share one."""
    if lead.email:
        yield Key("email", lead.email.casefold())


leads: Resource[pb.Lead] = Resource(
    pb.Lead, tables.leads, normalize=normalize, prepare=prepare, keys=keys, optimistic=True
)
