"""Taking a record back to one of its revisions, which the ledger keeps."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from sqlalchemy import ColumnElement, bindparam, select

from chassis import context, contract, masks
from chassis.errors import AlreadyExists, Invalid, NotFound, Precondition, Reason
from chassis.resource import Resource
from chassis.rows import moment
from chassis.work import View, Work


async def revert(resource: Resource[Any], request: Any, tx: Work) -> Message:
    """Writes a new revision with what clients write as it was in the revision that the request names.

    What the caller may not write stays as it is. Raises NotFound where there is no such revision, Precondition where
    the record is deleted or can no longer be what it was.
    """
    record = await tx.lock(resource, request.id, request.etag)
    then = await _then(resource, request, tx)
    descriptor = contract.descriptor_of(resource.message)
    writable = context.fields(descriptor).writable - {"etag"}
    paths = [each.name for each in descriptor.fields if each.name in writable and not contract.is_output_only(each)]
    masks.apply(record.after, then, paths)
    happened = await tx.happened(resource, request.occur_time)
    try:
        return await tx.update(record, "reverted", occur_time=happened)
    except (Invalid, AlreadyExists) as failure:
        # The request itself is well-formed: it is the record's surroundings that have changed since.
        raise Precondition(
            failure.reason,
            f"{request.id} can no longer be what it was: {failure.message}",
            metadata=failure.metadata,
            violations=failure.violations,
        ) from failure


async def _then(resource: Resource[Any], request: Any, tx: Work) -> Message:
    ledger = tx.schema.ledger
    if request.HasField("as_of"):
        known = ledger.c.commit_time <= moment(request.as_of)
        which = f"{request.id} was not known at {request.as_of.ToJsonString()}"
    else:
        known = ledger.c.revision == request.revision
        which = f"{request.id} has no revision {request.revision}"
    body = await last_where(tx, request.id, known)
    if body is None:
        raise NotFound(Reason.REASON_NOT_FOUND, which, metadata={"id": request.id})
    then: Message = resource.message.FromString(body)
    return then


async def last_where(tx: View, entity_id: str, known: ColumnElement[bool]) -> bytes | None:
    """A record as the last of those revisions left it of which ``known`` holds in the ledger; None without one."""
    ledger = tx.schema.ledger
    statement = (
        select(ledger.c.after)
        .where(ledger.c.tenant_id == bindparam("tenant"), ledger.c.entity_id == bindparam("entity_id"), known)
        .order_by(ledger.c.revision.desc())
        .limit(1)
    )
    rows = await tx.rows(statement, {"entity_id": entity_id})
    return bytes(rows[0].after) if rows else None
