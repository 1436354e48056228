"""The timeline's projection: every change once, on the timeline of its record and of every record that is linked.

The links of a record are all ids that ever stood in its subject fields. Whichever comes first, a change or a link,
they meet: a change is put on the timelines of the links known, and a new link takes in the changes known. Both
happen under a lock on the record, so the order and the number of deliveries do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final
from uuid import UUID

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from sqlalchemy import BigInteger, LargeBinary, Text, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.change import Change
from chassis.contract import is_repeated, is_subject
from chassis.db import Time, Tx
from chassis.rows import uuid_of

# A statement of its own: what it waited for must be visible to the next one. Sorted keys keep batches from
# locking each other up. It also has the next one planned once and not each time, which costs almost as much as to
# run it.
_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(key), set_config('plan_cache_mode', 'force_generic_plan', true)"
    " FROM unnest(:keys) AS key"
).bindparams(bindparam("keys", type_=ARRAY(BigInteger)))

# OFFSET 0 has each record looked up by its index. Without it a plan made while the tables were small reads all that
# the tenant has, for every event, until statistics arrive.
_ADD: Final = text(
    """
    WITH entry AS (
        SELECT * FROM unnest(:event_ids, :entity_ids, :types, :occur_times, :services, :positions, :changes)
            AS entry (event_id, entity_id, type, occur_time, service, position, change)
    ), link AS (
        SELECT * FROM unnest(:link_entities, :link_subjects) AS link (entity_id, subject_id)
    ), new_link AS (
        SELECT * FROM link WHERE NOT EXISTS (
            SELECT FROM entity_subject known
            WHERE known.tenant_id = :tenant AND known.entity_id = link.entity_id AND known.subject_id = link.subject_id
            OFFSET 0
        )
    ), kept_entry AS (
        INSERT INTO timeline_entries (tenant_id, event_id, entity_id, type, occur_time, service, position, change)
        SELECT :tenant, event_id, entity_id, type, occur_time, service, position, change FROM entry
        ON CONFLICT DO NOTHING
    ), kept_link AS (
        INSERT INTO entity_subject (tenant_id, entity_id, subject_id)
        SELECT :tenant, entity_id, subject_id FROM new_link
        ON CONFLICT DO NOTHING
    ), kept_owner AS (
        INSERT INTO entity_owner AS kept (tenant_id, entity_id, revision, owner_id)
        SELECT :tenant, entity_id, revision, owner_id
        FROM unnest(:owned_entities, :owned_revisions, :owners) AS owned (entity_id, revision, owner_id)
        ON CONFLICT (tenant_id, entity_id) DO UPDATE SET revision = excluded.revision, owner_id = excluded.owner_id
        WHERE kept.revision < excluded.revision
    )
    INSERT INTO entry_subject (tenant_id, subject_id, occur_time, service, position, event_id)
    SELECT :tenant, link.subject_id, entry.occur_time, entry.service, entry.position, entry.event_id
    FROM entry JOIN link ON link.entity_id = entry.entity_id
    UNION
    SELECT :tenant, known.subject_id, entry.occur_time, entry.service, entry.position, entry.event_id
    FROM entry CROSS JOIN LATERAL (
        SELECT subject_id FROM entity_subject WHERE tenant_id = :tenant AND entity_id = entry.entity_id OFFSET 0
    ) known
    UNION
    SELECT :tenant, new_link.subject_id, earlier.occur_time, earlier.service, earlier.position, earlier.event_id
    FROM new_link CROSS JOIN LATERAL (
        SELECT occur_time, service, position, event_id FROM timeline_entries
        WHERE tenant_id = :tenant AND entity_id = new_link.entity_id OFFSET 0
    ) earlier
    ON CONFLICT DO NOTHING
    """
).bindparams(
    bindparam("tenant", type_=Uuid),
    bindparam("event_ids", type_=ARRAY(Uuid)),
    bindparam("entity_ids", type_=ARRAY(Text)),
    bindparam("types", type_=ARRAY(Text)),
    bindparam("occur_times", type_=ARRAY(Time)),
    bindparam("services", type_=ARRAY(Text)),
    bindparam("positions", type_=ARRAY(BigInteger)),
    bindparam("changes", type_=ARRAY(LargeBinary)),
    bindparam("link_entities", type_=ARRAY(Text)),
    bindparam("link_subjects", type_=ARRAY(Text)),
    bindparam("owned_entities", type_=ARRAY(Text)),
    bindparam("owned_revisions", type_=ARRAY(BigInteger)),
    bindparam("owners", type_=ARRAY(Uuid)),
)


async def add(changes: Sequence[Change], tx: Tx) -> None:
    """Adds changes of the transaction's tenant; those that are there already stay as they are."""
    links = sorted({(change.entity_id, subject) for change in changes for subject in subjects_of(change)})
    entities = {change.entity_id for change in changes}
    await tx.execute(_LOCK, {"keys": sorted(_lock_key(tx.tenant, entity) for entity in entities)})
    await tx.execute(
        _ADD,
        {
            **_columns(changes),
            "link_entities": [entity for entity, _ in links],
            "link_subjects": [subject for _, subject in links],
            **_owners(changes),
        },
    )


def _columns(changes: Sequence[Change]) -> dict[str, list[Any]]:
    return {
        "event_ids": [change.event_id for change in changes],
        "entity_ids": [change.entity_id for change in changes],
        "types": [change.type for change in changes],
        "occur_times": [change.occur_time for change in changes],
        "services": [change.service for change in changes],
        "positions": [change.position for change in changes],
        "changes": [change.message.SerializeToString(deterministic=True) for change in changes],
    }


def _owners(changes: Sequence[Change]) -> dict[str, list[Any]]:
    """Whose records are from now on, of those that got or lost an owner; the last revision of each speaks."""
    last: dict[str, Change] = {}
    for change in sorted(changes, key=lambda each: each.revision):
        if "owner_id" in change.changed and change.after is not None:
            last[change.entity_id] = change
    found = [(entity, change.revision, change.after.owner_id) for entity, change in last.items()]
    return {
        "owned_entities": [entity for entity, _, _ in found],
        "owned_revisions": [revision for _, revision, _ in found],
        "owners": [uuid_of(owner) if owner else None for _, _, owner in found],
    }


def subjects_of(change: Change) -> set[str]:
    """The ids on whose timelines a change stands: its record's, and those its subject fields held or hold."""
    found = {change.entity_id}
    for record in (change.before, change.after):
        if record is not None:
            found.update(_named(record))
    return found


def _named(record: Message) -> set[str]:
    named: set[str] = set()
    for name, several in _subject_fields(record.DESCRIPTOR):
        value = getattr(record, name)
        named.update(value if several else (value,))
    named.discard("")
    return named


@cache
def _subject_fields(record: Descriptor) -> tuple[tuple[str, bool], ...]:
    return tuple((field.name, is_repeated(field)) for field in record.fields if is_subject(field))


def _lock_key(tenant: UUID, entity_id: str) -> int:
    digest = hashlib.blake2b(tenant.bytes + entity_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
