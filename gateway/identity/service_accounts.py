"""Service accounts: programs, with roles of their own."""

from __future__ import annotations

from crm.gateway.v1 import service_account_pb2 as pb

from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from gateway.identity import standing, tables


async def prepare(work: Work, account: pb.ServiceAccount, before: pb.ServiceAccount | None) -> None:
    """Checks that the roles exist, and that nobody gives what he does not have."""
    await standing.check_given(work, account.role_ids, before.role_ids if before is not None else ())


RESOURCE = Resource(pb.ServiceAccount, tables.service_accounts, prepare=prepare)


class ServiceAccounts(Service, serves="crm.gateway.v1.ServiceAccountService"):
    """Service accounts by their standard methods."""

    resource = RESOURCE
