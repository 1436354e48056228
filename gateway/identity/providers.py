"""Identity providers: the issuers by whose tokens a tenant's users come in."""

from __future__ import annotations

from crm.gateway.v1 import identity_provider_pb2 as pb
from sqlalchemy import bindparam, delete, insert, select

from chassis.errors import AlreadyExists, Reason, invalid
from chassis.resource import Resource
from chassis.rows import timestamp
from chassis.service import Platform, Service
from chassis.work import Work
from gateway.identity import standing, tables
from gateway.identity.tables import issuers
from gateway.outbound import Outbound, Refused

_TAKEN = select(issuers.c.provider_id).where(
    issuers.c.issuer == bindparam("issuer"),
    issuers.c.audience == bindparam("audience"),
    issuers.c.provider_id != bindparam("provider"),
)
_BIND = insert(issuers).values(
    issuer=bindparam("issuer"),
    audience=bindparam("audience"),
    tenant_id=bindparam("tenant"),
    provider_id=bindparam("provider"),
)
_FORGET = delete(issuers).where(issuers.c.provider_id == bindparam("provider"))


async def prepare(work: Work, provider: pb.IdentityProvider, before: pb.IdentityProvider | None) -> None:
    """Checks what needs more than the contract's rules, and binds issuer and audiences to the tenant."""
    if not provider.audiences:
        raise invalid("audiences", "it must hold at least one audience")
    await standing.check_given(work, provider.role_ids, before.role_ids if before is not None else ())
    if before is not None and (before.issuer, list(before.audiences)) == (provider.issuer, list(provider.audiences)):
        return
    own = {"provider": RESOURCE.uuid(provider.id)}
    await work.execute(_FORGET, own)
    for audience in provider.audiences:
        pair = {"issuer": provider.issuer, "audience": audience} | own
        if await work.rows(_TAKEN, pair):
            text = f"audiences: '{audience}' of this issuer is bound already"
            raise AlreadyExists(Reason.REASON_KEY_TAKEN, text, violations=[("audiences", "it is bound already")])
        await work.execute(_BIND, pair)


RESOURCE = Resource(pb.IdentityProvider, tables.identity_providers, prepare=prepare)


class IdentityProviders(Service, serves="crm.gateway.v1.IdentityProviderService"):
    """Identity providers by their standard methods; each also opens or closes the way in."""

    resource = RESOURCE

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self._outbound = Outbound(platform.settings.trusted_hosts)

    async def CreateIdentityProvider(
        self, request: pb.CreateIdentityProviderRequest, work: Work
    ) -> pb.IdentityProvider:
        """Makes a provider."""
        self._check_issuer(request.identity_provider)
        return await self.standard.create(request, work)  # type: ignore[return-value]

    async def UpdateIdentityProvider(
        self, request: pb.UpdateIdentityProviderRequest, work: Work
    ) -> pb.IdentityProvider:
        """Changes a provider."""
        self._check_issuer(request.identity_provider)
        return await self.standard.update(request, work)  # type: ignore[return-value]

    async def DeleteIdentityProvider(
        self, request: pb.DeleteIdentityProviderRequest, work: Work
    ) -> pb.IdentityProvider:
        """Closes the way in: what binds its issuer to the tenant goes in the same transaction."""
        record = await work.lock(self.resource, request.id, request.etag)
        record.after.delete_time.CopyFrom(timestamp(await work.now()))
        await work.execute(_FORGET, {"provider": self.resource.uuid(request.id)})
        return await work.update(record, "deleted")

    def _check_issuer(self, provider: pb.IdentityProvider) -> None:
        if not provider.issuer:
            return
        try:
            url = self._outbound.check(provider.issuer)
        except Refused as refusal:
            raise invalid("issuer", refusal.reason) from None
        if url.query or url.fragment:
            raise invalid("issuer", "an issuer has no query and no fragment")
