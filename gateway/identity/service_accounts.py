"""Service accounts: programs, with roles of their own."""

from __future__ import annotations

from crm.gateway.v1 import service_account_pb2 as pb

from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from gateway.identity import rights, standing, tables


async def prepare(work: Work, account: pb.ServiceAccount, before: pb.ServiceAccount | None) -> None:
    """Checks that the roles exist, and that nobody gives what he does not have, by letting in again either."""
    account.state = account.state or pb.SERVICE_ACCOUNT_STATE_ACTIVE
    await standing.check_given(work, account.role_ids, before.role_ids if before is not None else ())
    if before is not None and rights.is_active(account) and not rights.is_active(before):
        rights.check_grant(rights.grantor(work), await rights.live_roles(work, before.role_ids), "role_ids")


RESOURCE = Resource(pb.ServiceAccount, tables.service_accounts, prepare=prepare)


class ServiceAccounts(Service, serves="crm.gateway.v1.ServiceAccountService"):
    """Service accounts by their standard methods, and whether their keys may come in."""

    resource = RESOURCE

    async def SuspendServiceAccount(self, request: pb.SuspendServiceAccountRequest, work: Work) -> pb.ServiceAccount:
        """Keeps a service account out."""
        suspended = pb.SERVICE_ACCOUNT_STATE_SUSPENDED
        changed: pb.ServiceAccount = await standing.enter(work, RESOURCE, request, suspended, active=False)
        return changed

    async def ReactivateServiceAccount(
        self, request: pb.ReactivateServiceAccountRequest, work: Work
    ) -> pb.ServiceAccount:
        """Lets a service account in again."""
        active = pb.SERVICE_ACCOUNT_STATE_ACTIVE
        changed: pb.ServiceAccount = await standing.enter(work, RESOURCE, request, active, active=True)
        return changed
