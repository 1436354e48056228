"""API keys: what programs call with. Only a digest of each is kept."""

from __future__ import annotations

from uuid import UUID

from crm.gateway.v1 import api_key_pb2 as pb
from sqlalchemy import bindparam, delete, insert

from chassis import context, ids
from chassis.checks import clear_output_only
from chassis.errors import invalid
from chassis.resource import Resource
from chassis.rows import moment, timestamp
from chassis.service import Service
from chassis.work import Work
from gateway.identity import keys, scopes, tables
from gateway.identity.tables import credentials
from gateway.identity.users import Users


async def prepare(work: Work, key: pb.ApiKey, before: pb.ApiKey | None) -> None:
    """Checks what needs more than the contract's rules."""
    call = context.current_or_none()
    # The first key of a new tenant is made by the platform's operator, who has no scopes in there.
    if call is not None and call.caller.tenant == work.tenant:
        new = key.scopes if before is None else set(key.scopes) - set(before.scopes)
        scopes.check(new, call.caller)
    if not key.scopes:
        raise invalid("scopes", "it must hold at least one permission")
    was = before or pb.ApiKey()
    if (
        key.HasField("expire_time")
        and key.expire_time != was.expire_time
        and moment(key.expire_time) <= await work.now()
    ):
        raise invalid("expire_time", "it lies in the past; delete the key to end it at once")
    if key.user_id and key.user_id != was.user_id and not await work.get_many(Users.resource, [key.user_id]):
        raise invalid("user_id", "there is no such user")


_ADMIT = insert(credentials).values(
    tenant_id=bindparam("tenant"), digest=bindparam("digest"), api_key_id=bindparam("api_key_id")
)
_FORGET = delete(credentials).where(credentials.c.api_key_id == bindparam("api_key_id"))

RESOURCE = Resource(pb.ApiKey, tables.api_keys, prepare=prepare, transient=["secret"])


class ApiKeys(Service, serves="crm.gateway.v1.ApiKeyService"):
    """API keys by their standard methods; making and deleting one also opens and closes the way in."""

    resource = RESOURCE

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, work: Work) -> pb.ApiKey:
        """Makes a key. Its secret is in this answer alone: a repetition with the same request id leaves it out."""
        clear_output_only(request.api_key)
        key = await add(work, request.api_key, keys.make())
        work.remembered = without_secret(key)
        return work.remembered if request.validate_only else key

    async def DeleteApiKey(self, request: pb.DeleteApiKeyRequest, work: Work) -> pb.ApiKey:
        """Revokes a key: what finds it by its digest goes in the same transaction."""
        record = await work.lock(self.resource, request.id, request.etag)
        record.after.delete_time.CopyFrom(timestamp(await work.now()))
        await work.execute(_FORGET, {"api_key_id": self.resource.uuid(request.id)})
        return await work.update(record, "deleted")


async def add(work: Work, wanted: pb.ApiKey, new: keys.NewKey, *, key_id: UUID | None = None) -> pb.ApiKey:
    """A key in the transaction's tenant, with its secret in the answer."""
    draft = pb.ApiKey()
    draft.CopyFrom(wanted)
    draft.prefix = new.prefix
    made = await work.create(RESOURCE, draft, record_id=key_id)
    await work.execute(_ADMIT, {"digest": keys.digest(new.secret), "api_key_id": ids.decode(made.id)[1]})
    answer = pb.ApiKey()
    answer.CopyFrom(made)
    answer.secret = new.secret
    return answer


def without_secret(key: pb.ApiKey) -> pb.ApiKey:
    """The key as everyone may see it."""
    shown = pb.ApiKey()
    shown.CopyFrom(key)
    shown.ClearField("secret")
    return shown
