"""Companies: the organisations a tenant deals with."""

from __future__ import annotations

from collections.abc import Iterator

from crm.contacts.v1 import company_pb2 as pb

from chassis.errors import invalid
from chassis.keys import Key
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from services.contacts import tables
from services.contacts.reach import domain_name, normalize_reach


def normalize(company: pb.Company) -> None:
    """Brings domain, e-mail addresses and telephone numbers into their kept form."""
    normalize_reach(company)
    if company.domain:
        company.domain = domain_name(company.domain, "domain")


async def prepare(_work: Work, company: pb.Company, _before: pb.Company | None) -> None:
    """Raises Invalid where a company would belong to itself."""
    if company.parent_company_id and company.parent_company_id == company.id:
        raise invalid("parent_company_id", "a company cannot belong to itself")


def keys(company: pb.Company) -> Iterator[Key]:
    """A company is found by its domain; several may share one."""
    if company.domain:
        yield Key("domain", company.domain)


companies: Resource[pb.Company] = Resource(
    pb.Company, tables.companies, normalize=normalize, prepare=prepare, keys=keys, optimistic=True
)


class Companies(Service, serves="crm.contacts.v1.CompanyService"):
    """Organisations."""

    resource = companies
