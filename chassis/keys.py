"""Natural keys: what a record is known by outside of Rapport, and how two writers of one key wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Select, Table, Text, bindparam, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import Tx

EXTERNAL_ID: Final = "external id"
# Locks are taken on so many buckets of values, so that a batch of any size needs no more.
_BUCKETS: Final = 256

_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(hashtext(:space), bucket) FROM (SELECT DISTINCT"
    " abs(hashtext(value) % CAST(:buckets AS int)) AS bucket FROM unnest(CAST(:values AS text[])) AS value"
    " ORDER BY bucket) AS buckets"
)


class Key(NamedTuple):
    """A natural key. An exclusive one names at most one record; another may match several."""

    kind: str
    value: str
    exclusive: bool = False


def keys_of(record: Message, more: Callable[[Any], Iterable[Key]] | None) -> list[Key]:
    """The keys of a record: its external ids, and those that ``more`` finds in it."""
    keys = [
        Key(EXTERNAL_ID, f"{each.system}\t{each.id}", exclusive=True) for each in getattr(record, "external_ids", ())
    ]
    return keys + (list(more(record)) if more is not None else [])


async def claim(tx: Tx, resource: str, keys: Sequence[Key]) -> dict[Key, list[UUID]]:
    """Locks keys until the transaction ends and tells which records hold each.

    The look-up is a statement of its own after the locks, so it sees what the writer before us committed.
    """
    if not keys:
        return {}
    values = [f"{key.kind}\t{key.value}" for key in keys]
    await tx.rows(_LOCK, {"space": f"{tx.tenant}\t{resource}", "buckets": _BUCKETS, "values": values})
    rows = await tx.rows(
        _holders(tx.schema.natural_keys),
        {
            "resource": resource,
            "kinds": [key.kind for key in keys],
            "values": [key.value for key in keys],
        },
    )
    found: dict[Key, list[UUID]] = {}
    for row in rows:
        found.setdefault(Key(row.kind, row.value, row.exclusive), []).append(row.id)
    return found


@cache
def _holders(table: Table) -> Select[Any]:
    wanted = select(
        func.unnest(bindparam("kinds", type_=ARRAY(Text))).label("kind"),
        func.unnest(bindparam("values", type_=ARRAY(Text))).label("value"),
    ).subquery()
    return select(table.c.kind, table.c.value, table.c.id, table.c.exclusive).where(
        table.c.tenant_id == bindparam("tenant"),
        table.c.resource == bindparam("resource"),
        tuple_(table.c.kind, table.c.value).in_(select(wanted.c.kind, wanted.c.value)),
    )
