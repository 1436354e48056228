"""With whose rights something is done later that was asked for in a call: heard of, or changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from crm.gateway.v1 import api_key_pb2
from sqlalchemy import bindparam, select

from chassis import ids, telemetry
from chassis.access import Access
from chassis.context import Caller
from chassis.db import Tx
from chassis.errors import Denied
from chassis.rows import moment
from chassis.sql import Row
from gateway.identity import rights, scopes
from gateway.identity.tables import api_keys

log = telemetry.logger()


def kept_of(caller: Caller) -> dict[str, Any]:
    """What `caller_now` needs of a caller, by the columns of `caller_columns`."""
    return {
        "principal_id": caller.principal,
        "scopes": sorted(caller.scopes),
        "credential": caller.credential,
        "access": caller.access.encoded if caller.access is not None else b"",
    }


_KEY = select(api_keys.c.record).where(api_keys.c.tenant_id == bindparam("tenant"), api_keys.c.id == bindparam("id"))


async def caller_now(tx: Tx, kept: Row) -> Caller | None:
    """Who called, as that one may call now; None where it, or the key it came in with, is gone.

    ``kept`` has what `kept_of` gave. Key and roles give what they have now. Whoever came in without either keeps what
    the call had, and so do the rules about what it sees.
    """
    given, access = frozenset(kept.scopes), Access.decode(kept.access) if kept.access else None
    credential, credential_id = ids.decode(kept.credential or kept.principal_id)
    kind, uuid = ids.decode(kept.principal_id)
    if credential == "api_key":
        found = await tx.rows(_KEY, {"id": credential_id})
        key = api_key_pb2.ApiKey.FromString(found[0].record) if found else None
        if key is None or key.HasField("delete_time") or _is_over(key):
            return None
        given = frozenset(key.scopes)
        # An agent has its own name, whomever it acts for.
        kind, uuid = ids.decode(key.user_id or key.service_account_id or key.id)
    try:
        acting = await rights.holder(tx, uuid if kind == "user" else None, uuid if kind == "service_account" else None)
    except Denied as denied:
        log.warning("who is acted for later may not come in", exc_info=denied)
        return None
    if acting is None:
        return None
    if acting[1] is not None:
        given, access = scopes.meet(given, acting[1].scopes), acting[1].access
    elif credential == "identity_provider":
        given = frozenset()
    return Caller(tx.tenant, kept.principal_id, given, issuer="gateway", access=access)


def _is_over(key: api_key_pb2.ApiKey) -> bool:
    return key.HasField("expire_time") and moment(key.expire_time) <= datetime.now(UTC)
