"""From a token of an identity provider to the user it stands for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from crm.gateway.v1 import identity_provider_pb2, user_pb2
from crm.type.v1 import common_pb2
from sqlalchemy import bindparam, func, select

from chassis import ids, telemetry
from chassis.checks import fitting
from chassis.context import Caller
from chassis.errors import Invalid
from chassis.keys import EXTERNAL_ID, Key, claim
from chassis.service import Platform
from chassis.work import Work
from gateway.identity import bearer, providers
from gateway.identity.bearer import Claimed, refused
from gateway.identity.issuers import Issuers
from gateway.identity.own import own_work
from gateway.identity.rights import is_active, live_roles, rights_of_user
from gateway.identity.standing import lock
from gateway.identity.tables import NOBODY, issuers, schema
from gateway.identity.users import Users

_BINDING = select(issuers.c.tenant_id, issuers.c.provider_id).where(
    issuers.c.issuer == bindparam("issuer"), issuers.c.audience == func.any(bindparam("audiences"))
)
_held = schema.natural_keys
_LINKED = select(_held.c.id).where(
    _held.c.tenant_id == bindparam("tenant"),
    _held.c.resource == Users.resource.kind.prefix,
    _held.c.kind == EXTERNAL_ID,
    _held.c.value == bindparam("value"),
)

log = telemetry.logger()


class SignIn:
    """Lets users in by the tokens of the providers that their tenant named."""

    def __init__(self, platform: Platform, published: Issuers) -> None:
        self._platform = platform
        self._issuers = published

    async def caller(self, claimed: Claimed) -> Caller:
        """The caller behind a token. Raises Unauthenticated where it lets nobody in, Unavailable where the provider's
        keys or our database cannot be read."""
        tenant, provider_id = await self._binding(claimed)
        key = await self._issuers.key(claimed.issuer, claimed.kid)
        if key is None:
            raise refused()
        claims = bearer.verify(claimed, *key)
        async with self._platform.db.read(tenant) as tx:
            rows = await tx.rows(providers.RESOURCE.read_many, {"ids": [provider_id]})
            if not rows:
                raise refused()
            provider = providers.RESOURCE.read(rows[0])
            if provider.HasField("delete_time"):
                raise refused()
            linked = await tx.rows(_LINKED, {"value": f"{provider.id}\t{claims['sub']}"})
        user_id = linked[0].id if linked else await self._match(tenant, provider, claims)
        async with self._platform.db.read(tenant) as tx:
            rows = await tx.rows(Users.resource.read_many, {"ids": [user_id]})
            if not rows or not is_active(user := Users.resource.read(rows[0])):
                raise refused("the token is good, but its subject is no user's who may come in")
            given = await rights_of_user(tx, user)
        return Caller(tenant, user.id, given.scopes, "gateway", credential=provider.id, access=given.access)

    async def _binding(self, claimed: Claimed) -> tuple[UUID, UUID]:
        """The tenant and provider that issuer and audience are bound to; one alone."""
        if not 0 < len(claimed.audiences) <= 20:
            raise refused()
        async with self._platform.db.read(NOBODY) as tx:
            rows = await tx.rows(_BINDING, {"issuer": claimed.issuer, "audiences": list(claimed.audiences)})
        found = {(row.tenant_id, row.provider_id) for row in rows}
        if len(found) != 1:
            raise refused()
        return found.pop()

    async def _match(
        self, tenant: UUID, provider: identity_provider_pb2.IdentityProvider, claims: dict[str, Any]
    ) -> UUID:
        """The user whom the provider's settings find or make, linked to the subject from now on."""
        by_email = provider.user_match == identity_provider_pb2.USER_MATCH_VERIFIED_EMAIL
        if not by_email and not provider.create_users:
            raise refused("the token is good, but its subject is no user's")
        try:
            async with own_work(self._platform.db, tenant) as work:
                user_id = await _found_or_made(work, provider, claims, by_email=by_email)
        except Invalid as failure:
            log.warning("a user could not be made from a token", exc_info=failure)
            raise refused("the token is good, but no user can be made from it") from failure
        self._platform.wake()
        return user_id


async def _found_or_made(
    work: Work, provider: identity_provider_pb2.IdentityProvider, claims: dict[str, Any], *, by_email: bool
) -> UUID:
    link = common_pb2.ExternalId(system=provider.id, id=claims["sub"])
    linked = Key(EXTERNAL_ID, f"{link.system}\t{link.id}", exclusive=True)
    email = _verified_email(claims)
    named = [Key("e-mail", email.lower())] if email else []
    holders = await claim(work, Users.resource.kind.prefix, [linked, *named])
    if held := holders.get(linked):
        return held[0]
    everyone = await work.lock_many(
        Users.resource, [ids.encode(Users.resource.kind.prefix, each) for key in named for each in holders.get(key, [])]
    )
    known = [record for record in everyone.values() if not record.before.HasField("delete_time")]
    if known:
        # A second subject with the address of a user is a stranger, or the address has changed hands.
        taken = len(known) > 1 or any(each.system == provider.id for each in known[0].before.external_ids)
        if taken or not by_email:
            raise refused("the token is good, but its subject is not the user's of this e-mail address")
        known[0].after.external_ids.append(link)
        return Users.resource.uuid((await work.update(known[0])).id)
    if not provider.create_users:
        raise refused("the token is good, but its subject is no user's")
    name = next((claims[each] for each in ("name", "preferred_username") if isinstance(claims.get(each), str)), "")
    await lock(work)
    roles = [role.id for role in await live_roles(work, provider.role_ids)]
    name = fitting(user_pb2.User, "display_name", name.strip() or email or claims["sub"])
    user = user_pb2.User(role_ids=roles, display_name=name, external_ids=[link])
    if email:
        user.email = email
    made = await work.create(Users.resource, user)
    return Users.resource.uuid(made.id)


def _verified_email(claims: dict[str, Any]) -> str:
    email = claims.get("email")
    return email.strip() if isinstance(email, str) and claims.get("email_verified") is True else ""
