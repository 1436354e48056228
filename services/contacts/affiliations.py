"""Affiliations: who works where, and as what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crm.contacts.v1 import affiliation_pb2 as pb
from google.type.date_pb2 import Date

from chassis.errors import Reason, invalid, not_now
from chassis.keys import Key
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from services.contacts import tables
from services.contacts.companies import companies
from services.contacts.contacts import contacts


async def prepare(work: Work, affiliation: pb.Affiliation, before: pb.Affiliation | None) -> None:
    """Names the link, and raises where person or company do not exist or the dates are the wrong way round."""
    if not affiliation.display_name:
        affiliation.display_name = affiliation.role or "affiliation"
    dated = affiliation.HasField("end_date") and affiliation.HasField("start_date")
    if dated and _day(affiliation.end_date) < _day(affiliation.start_date):
        raise invalid("end_date", "it lies before start_date")
    if before is None or (before.contact_id, before.company_id) != (affiliation.contact_id, affiliation.company_id):
        await _check_ends(work, affiliation)


async def _check_ends(work: Work, affiliation: pb.Affiliation) -> None:
    ends: tuple[tuple[Resource[Any], str, str], ...] = (
        (contacts, "contact_id", affiliation.contact_id),
        (companies, "company_id", affiliation.company_id),
    )
    for resource, field, end in ends:
        if end and end not in await work.get_many(resource, [end]):
            raise not_now(field, f"there is no {resource.kind.prefix} '{end}'", Reason.REASON_NOT_FOUND)


def _day(date: Date) -> tuple[int, int, int]:
    return date.year, date.month, date.day


def keys(affiliation: pb.Affiliation) -> Iterator[Key]:
    """An affiliation is found by its two ends and the role."""
    yield Key("ends", f"{affiliation.contact_id}\t{affiliation.company_id}\t{affiliation.role.casefold()}")


affiliations: Resource[pb.Affiliation] = Resource(
    pb.Affiliation, tables.affiliations, prepare=prepare, keys=keys, optimistic=True
)


class Affiliations(Service, serves="crm.contacts.v1.AffiliationService"):
    """The links between people and companies."""

    resource = affiliations
