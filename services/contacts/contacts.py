"""Contacts: the people a tenant knows."""

from __future__ import annotations

from crm.contacts.v1 import contact_pb2 as pb

from chassis.checks import check_time_zone, fitting
from chassis.errors import Invalid, Reason
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from services.contacts import tables
from services.contacts.reach import email_keys, normalize_reach


async def prepare(_work: Work, contact: pb.Contact, _before: pb.Contact | None) -> None:
    """Names the contact where nobody did. Raises Invalid where nothing says who it is."""
    if not contact.display_name:
        contact.display_name = fitting(contact, "display_name", _name(contact))
    if contact.time_zone:
        check_time_zone(contact.time_zone)


def _name(contact: pb.Contact) -> str:
    names = " ".join(filter(None, (contact.given_name, contact.family_name)))
    if names:
        return names
    if contact.emails:
        return contact.emails[0].address
    if contact.phones:
        return contact.phones[0].number
    if contact.external_ids:
        return contact.external_ids[0].id
    message = "a contact needs a name, an e-mail address, a telephone number or an external id"
    raise Invalid(Reason.REASON_FIELD_REQUIRED, message, violations=[("display_name", message)])


contacts: Resource[pb.Contact] = Resource(
    pb.Contact,
    tables.contacts,
    normalize=normalize_reach,
    prepare=prepare,
    keys=lambda contact: email_keys(contact.emails),
    optimistic=True,
)


class Contacts(Service, serves="crm.contacts.v1.ContactService"):
    """People."""

    resource = contacts
