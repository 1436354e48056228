"""API keys: what programs call with. Only a digest of each is kept."""

from __future__ import annotations

from uuid import UUID

from crm.gateway.v1 import api_key_pb2 as pb
from sqlalchemy import bindparam, delete, insert

from chassis import ids
from chassis.checks import clear_output_only
from chassis.context import Caller
from chassis.errors import Denied, Reason, invalid
from chassis.resource import Resource
from chassis.rows import moment, timestamp
from chassis.service import Service
from chassis.work import Work
from gateway.identity import keys, rights, scopes, standing, tables
from gateway.identity.service_accounts import RESOURCE as ACCOUNTS
from gateway.identity.tables import credentials
from gateway.identity.users import Users


async def prepare(work: Work, key: pb.ApiKey, before: pb.ApiKey | None) -> None:
    """Checks what needs more than the contract's rules."""
    # The first key of a new tenant is made by the platform's operator, who has no scopes in there.
    if (caller := rights.grantor(work)) is not None:
        new = key.scopes if before is None else set(key.scopes) - set(before.scopes)
        scopes.check(new, caller)
    if not key.scopes:
        raise invalid("scopes", "it must hold at least one permission")
    was = before or pb.ApiKey()
    if (
        key.HasField("expire_time")
        and key.expire_time != was.expire_time
        and moment(key.expire_time) <= await work.now()
    ):
        raise invalid("expire_time", "it lies in the past; delete the key to end it at once")
    if key.HasField("delete_time"):
        return
    if before is None and not key.user_id and not key.service_account_id and caller is not None and caller.access:
        key.user_id = caller.access.user_id
    if key.user_id and key.service_account_id:
        raise invalid("service_account_id", "a key acts for a user or for a service account, not for both")
    await _check_whom(work, key, was)
    gained = set(key.scopes) - set(was.scopes) or _whom(key) != _whom(was)
    if gained and caller is not None and caller.access is not None:
        await _check_sight(work, key, caller)


def _whom(key: pb.ApiKey) -> str:
    return key.user_id or key.service_account_id


async def _check_whom(work: Work, key: pb.ApiKey, was: pb.ApiKey) -> None:
    if not _whom(key) or _whom(key) == _whom(was):
        return
    # Not while the user's last role is taken away, or a service account goes.
    await standing.lock(work)
    if key.user_id:
        user = (await work.get_many(Users.resource, [key.user_id])).get(key.user_id)
        if user is None or user.HasField("delete_time"):
            raise invalid("user_id", "there is no such user")
        return
    account = (await work.get_many(ACCOUNTS, [key.service_account_id])).get(key.service_account_id)
    if account is None or account.HasField("delete_time"):
        raise invalid("service_account_id", "there is no such service account")


async def _check_sight(work: Work, key: pb.ApiKey, caller: Caller) -> None:
    """A key shows no more than its maker sees: it acts for the maker, or for an account that sees no more."""
    if key.user_id and caller.access is not None and key.user_id == caller.access.user_id:
        return
    if not key.service_account_id:
        text = "user_id: whoever does not see everything makes keys that act for themselves"
        raise Denied(Reason.REASON_PERMISSION_DENIED, text)
    account = (await work.get_many(ACCOUNTS, [key.service_account_id]))[key.service_account_id]
    rights.check_grant(caller, await rights.live_roles(work, account.role_ids), "service_account_id")


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
