"""Proposals as they are kept: the record, and beside it what the record's events do not show."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final
from uuid import UUID

from crm.gateway.v1 import proposal_pb2 as pb
from crm.type.v1 import change_pb2
from sqlalchemy import bindparam, delete, insert, select, update

from chassis.context import Caller
from chassis.db import Tx
from chassis.resource import Record, Resource
from chassis.sql import Row
from chassis.work import Work
from gateway.identity.later import kept_of
from gateway.identity.tables import schema
from gateway.proposals import foresight
from gateway.proposals.methods import proposable
from gateway.proposals.tables import THESE_CONTENTS, TRANSIENT, contents, proposals

RESOURCE: Final = Resource(pb.Proposal, proposals, transient=TRANSIENT)

# So long after its end a proposal still shows what it changed.
KEPT: Final = dt.timedelta(days=30)

_KEEP = insert(contents).values(
    tenant_id=bindparam("tenant"),
    proposal_id=bindparam("proposal"),
    due_time=bindparam("due"),
    **{name: bindparam(name) for name in ("request", "changes", "principal_id", "scopes", "credential", "access")},
)
_READ = select(contents).where(*THESE_CONTENTS)
_ledger = schema.ledger.c
_ACCEPTED = select(_ledger.event_id).where(
    _ledger.tenant_id == bindparam("tenant"),
    _ledger.entity_id == bindparam("entity_id"),
    _ledger.type == f"{RESOURCE.kind.full_name}.accepted",
)
_SCHEDULE = update(contents).where(*THESE_CONTENTS).values(due_time=bindparam("due"))
_FORGET = delete(contents).where(*THESE_CONTENTS)


async def keep(
    tx: Tx, proposal: UUID, request: bytes, changes: list[change_pb2.Change], caller: Caller, due: dt.datetime
) -> None:
    """Keeps what is proposed, and who proposes it with what rights."""
    values: dict[str, Any] = {
        "proposal": proposal,
        "request": request,
        "changes": [each.SerializeToString() for each in changes],
        "due": due,
        **kept_of(caller),
    }
    await tx.execute(_KEEP, values)


async def contents_of(tx: Tx, proposal: UUID) -> Row | None:
    """What was kept with a proposal; None long after its end."""
    rows = await tx.rows(_READ, {"proposal": proposal})
    return rows[0] if rows else None


async def acceptance(tx: Tx, proposal: UUID) -> UUID | None:
    """The event that a proposal was accepted by; its actor is who did that, the proposer where a rule did."""
    rows = await tx.rows(_ACCEPTED, {"entity_id": RESOURCE.id_of(proposal)})
    return rows[0].event_id if rows else None


async def schedule(tx: Tx, proposal: UUID, due: dt.datetime) -> None:
    """Says when something is to be done about a proposal."""
    await tx.execute(_SCHEDULE, {"proposal": proposal, "due": due})


async def end(work: Work, record: Record[pb.Proposal], verb: str) -> pb.Proposal:
    """Writes a proposal that nothing more comes of."""
    await schedule(work, RESOURCE.uuid(record.after.id), await work.now() + KEPT)
    return await work.update(record, verb)


async def forget(tx: Tx, proposal: UUID) -> None:
    """Takes away what was kept with a proposal."""
    await tx.execute(_FORGET, {"proposal": proposal})


async def shown(tx: Tx, proposal: pb.Proposal, caller: Caller) -> pb.Proposal:
    """A proposal with what the caller may read of its contents."""
    found = pb.Proposal()
    found.CopyFrom(proposal)
    row = await contents_of(tx, RESOURCE.uuid(proposal.id))
    if row is None:
        return found
    changes = [change_pb2.Change.FromString(each) for each in row.changes]
    foresight.show(found, proposable()[proposal.method], bytes(row.request), changes, caller)
    return found
