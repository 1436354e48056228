"""Tenants: the clients of the platform, walled off from each other."""

from __future__ import annotations

from uuid import UUID, uuid5

from crm.gateway.v1 import api_key_pb2
from crm.gateway.v1 import tenant_pb2 as pb

from chassis import context, ids
from chassis.db import Database
from chassis.resource import Resource
from chassis.service import Service, saga
from chassis.work import Work
from gateway.identity import api_keys, keys, roles, tables

RESOURCE = Resource(pb.Tenant, tables.tenants, transient=["admin_secret"])
# What a tenant's first key may do: everything there is in the tenant, nothing of the platform.
ADMIN_SCOPES = ["*"]


class Tenants(Service, serves="crm.gateway.v1.TenantService"):
    """Tenants. A tenant's own record stands inside its own walls, so each sees itself alone."""

    resource = RESOURCE

    @saga
    async def CreateTenant(self, request: pb.CreateTenantRequest, call: context.Call) -> pb.Tenant:
        """Makes a tenant and its first API key, in a transaction of the new tenant."""
        tenant_id = _id_for(call, request.request_id)
        first = api_key_pb2.ApiKey(display_name="Administrator", scopes=ADMIN_SCOPES)
        keep = not request.validate_only
        made = await found(self.platform.db, tenant_id, request.tenant.display_name, first, keys.make(), keep=keep)
        self.platform.wake()
        return made


def _id_for(call: context.Call, request_id: str) -> UUID:
    """The new tenant's id: the same for a repetition, so that it makes no second tenant."""
    if not request_id:
        return ids.new_uuid()
    return uuid5(call.caller.tenant, f"{call.caller.principal} {UUID(request_id)}")


class _Rehearsal(Exception):
    pass


async def found(
    db: Database,
    tenant_id: UUID,
    display_name: str,
    first: api_key_pb2.ApiKey,
    key: keys.NewKey,
    *,
    keep: bool = True,
) -> pb.Tenant:
    """A tenant with its first key and the usual roles. One that exists already stays as it is and gets a further key.

    The answer holds the key's secret, which nobody can ask for again; not where nothing is to be kept.
    """
    tenant = pb.Tenant()
    try:
        async with db.write(tenant_id) as tx:
            work = Work(tx)
            known = await work.get_many(RESOURCE, [ids.encode(RESOURCE.kind.prefix, tenant_id)])
            if known:
                tenant.CopyFrom(*known.values())
            else:
                wanted = pb.Tenant(display_name=display_name) if display_name else pb.Tenant()
                tenant.CopyFrom(await work.create(RESOURCE, wanted, record_id=tenant_id))
                await roles.add_usual_roles(work)
            await api_keys.add(work, first, key)
            await work.flush()
            if not keep:
                raise _Rehearsal
    except _Rehearsal:
        return tenant
    tenant.admin_secret = key.secret
    return tenant
