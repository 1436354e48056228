"""API keys: what programs call with. Only a digest of each is kept."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from crm.gateway.v1 import api_key_pb2 as pb
from crm.gateway.v1 import role_pb2
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
from gateway.proposals import methods


async def prepare(work: Work, key: pb.ApiKey, before: pb.ApiKey | None) -> None:
    """Checks what needs more than the contract's rules."""
    was = before or pb.ApiKey()
    # The first key of a new tenant is made by the platform's operator, who has no scopes in there.
    if (caller := rights.grantor(work)) is not None:
        # Old scopes may reach beyond whom they were for: for another, or nobody, they are given anew.
        new = set(key.scopes) - set(was.scopes) if _whom(key) == _whom(was) else key.scopes
        scopes.check(new, caller)
    if not key.scopes:
        raise invalid("scopes", "it must hold at least one permission")
    if (
        key.HasField("expire_time")
        and key.expire_time != was.expire_time
        and moment(key.expire_time) <= await work.now()
    ):
        raise invalid("expire_time", "it lies in the past; delete the key to end it at once")
    if key.HasField("delete_time"):
        return
    _check_rules(key, was, caller)
    if before is None and not _whom(key) and caller is not None and caller.access is not None:
        setattr(key, f"{ids.decode(caller.principal)[0]}_id", caller.principal)
    if key.user_id and key.service_account_id:
        raise invalid("service_account_id", "a key acts for a user or for a service account, not for both")
    if _whom(key) == _whom(was) and set(key.scopes) <= set(was.scopes):
        return
    # Not while the user's last role is taken away, or the service account goes.
    await standing.lock(work)
    held = await _roles_behind(work, key, was)
    if caller is not None and _whom(key) != caller.principal:
        rights.check_grant(caller, held, "user_id" if key.user_id else "service_account_id")
        if caller.access is not None and not key.service_account_id:
            # What others own is theirs to see, and without anybody there is nothing that narrows the key.
            text = "user_id: whoever does not see everything makes keys that act for themselves"
            raise Denied(Reason.REASON_PERMISSION_DENIED, text)


def _check_rules(key: pb.ApiKey, was: pb.ApiKey, caller: Caller | None) -> None:
    """Raises Invalid for a rule that means nothing, Denied where it accepts what its maker may not do."""
    for index, rule in enumerate(key.agent.accept):
        if rule in was.agent.accept and _whom(key) == _whom(was):
            continue
        place = f"agent.accept[{index}].method"
        method = methods.named(place, rule.method)
        if caller is not None:
            methods.check_may(caller, method, place)


def _whom(key: pb.ApiKey) -> str:
    return key.user_id or key.service_account_id


async def _roles_behind(work: Work, key: pb.ApiKey, was: pb.ApiKey) -> list[role_pb2.Role]:
    """The roles of whom a key acts for. Raises Invalid where it is to act for somebody who is not there."""
    if not _whom(key):
        return []
    field = "user_id" if key.user_id else "service_account_id"
    kind: Resource[Any] = Users.resource if key.user_id else ACCOUNTS
    found = (await work.get_many(kind, [_whom(key)])).get(_whom(key))
    if (found is None or found.HasField("delete_time")) and _whom(key) != _whom(was):
        raise invalid(field, f"there is no such {kind.kind.prefix.replace('_', ' ')}")
    return await rights.live_roles(work, found.role_ids) if found is not None else []


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
