"""With whose rights an endpoint hears of changes."""

from __future__ import annotations

from datetime import UTC, datetime

from crm.gateway.v1 import api_key_pb2
from sqlalchemy import bindparam, select

from chassis import ids
from chassis.access import Access
from chassis.context import Caller
from chassis.db import Tx
from chassis.rows import moment
from chassis.sql import Row
from gateway.identity import rights, scopes
from gateway.identity.tables import api_keys

_KEY = select(api_keys.c.record).where(api_keys.c.tenant_id == bindparam("tenant"), api_keys.c.id == bindparam("id"))


async def hearer(tx: Tx, queue: Row) -> Caller | None:
    """Who an endpoint hears for: its maker; None where it, or the key it came in with, is gone.

    Key and roles give what they have now. Whoever came in without either keeps what the call that made the endpoint
    had, and so do the rules about what it sees.
    """
    given, access = frozenset(queue.scopes), Access.decode(queue.access) if queue.access else None
    credential, credential_id = ids.decode(queue.credential or queue.principal_id)
    if credential == "api_key":
        found = await tx.rows(_KEY, {"id": credential_id})
        key = api_key_pb2.ApiKey.FromString(found[0].record) if found else None
        if key is None or key.HasField("delete_time") or _is_over(key):
            return None
        given = frozenset(key.scopes)
    kind, uuid = ids.decode(queue.principal_id)
    acting = await rights.holder(tx, uuid if kind == "user" else None, uuid if kind == "service_account" else None)
    if acting is None:
        return None
    if acting[1] is not None:
        given, access = scopes.meet(given, acting[1].scopes), acting[1].access
    elif credential == "identity_provider":
        given = frozenset()
    return Caller(tx.tenant, queue.principal_id, given, issuer="gateway", access=access)


def _is_over(key: api_key_pb2.ApiKey) -> bool:
    return key.HasField("expire_time") and moment(key.expire_time) <= datetime.now(UTC)
