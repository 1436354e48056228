"""With whose rights an endpoint hears of changes."""

from __future__ import annotations

from datetime import UTC, datetime

from crm.gateway.v1 import api_key_pb2, user_pb2
from sqlalchemy import Table, bindparam, select
from sqlalchemy.sql import Executable

from chassis import ids
from chassis.access import Access
from chassis.context import Caller
from chassis.db import Tx
from chassis.rows import moment
from chassis.sql import Row
from gateway.identity.tables import api_keys, users


def _by_id(table: Table) -> Executable:
    return select(table.c.record).where(table.c.tenant_id == bindparam("tenant"), table.c.id == bindparam("id"))


_KEY, _USER = _by_id(api_keys), _by_id(users)


async def hearer(tx: Tx, queue: Row) -> Caller | None:
    """Who an endpoint hears for: its maker; None where it, or the key it came in with, is gone.

    A key gives the permissions that it has now. Whoever came in otherwise keeps those of the call that made the
    endpoint, and so do the rules about what a caller sees.
    """
    scopes = frozenset(queue.scopes)
    for name in {queue.principal_id, queue.credential or queue.principal_id}:
        prefix, uuid = ids.decode(name)
        if prefix == "api_key":
            found = await tx.rows(_KEY, {"id": uuid})
            key = api_key_pb2.ApiKey.FromString(found[0].record) if found else None
            if key is None or key.HasField("delete_time") or _is_over(key):
                return None
            scopes = frozenset(key.scopes)
        elif prefix == "user":
            found = await tx.rows(_USER, {"id": uuid})
            if not found or user_pb2.User.FromString(found[0].record).HasField("delete_time"):
                return None
    access = Access.decode(queue.access) if queue.access else None
    return Caller(tx.tenant, queue.principal_id, scopes, issuer="gateway", access=access)


def _is_over(key: api_key_pb2.ApiKey) -> bool:
    return key.HasField("expire_time") and moment(key.expire_time) <= datetime.now(UTC)
