"""Service accounts: programs, with roles of their own."""

from __future__ import annotations

from crm.gateway.v1 import service_account_pb2 as pb

from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from gateway.identity import rights, standing, tables


async def prepare(work: Work, account: pb.ServiceAccount, before: pb.ServiceAccount | None) -> None:
    """Checks that the roles exist, and that nobody gives what he does not have."""
    new = sorted(set(account.role_ids) - set(before.role_ids if before is not None else ()))
    if new:
        rights.check_grant(rights.grantor(work), await standing.roles_for(work, new), "role_ids")


RESOURCE = Resource(pb.ServiceAccount, tables.service_accounts, prepare=prepare)


class ServiceAccounts(Service, serves="crm.gateway.v1.ServiceAccountService"):
    """Service accounts by their standard methods."""

    resource = RESOURCE
