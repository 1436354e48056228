"""Proposals as they are kept: the record, and beside it what the record's events do not show."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final
from uuid import UUID

from crm.gateway.v1 import proposal_pb2 as pb
from crm.type.v1 import change_pb2
from sqlalchemy import bindparam, insert, select, update

from chassis.context import Caller
from chassis.db import Tx
from chassis.resource import Resource
from chassis.sql import Row
from gateway.proposals import foresight
from gateway.proposals.methods import proposable
from gateway.proposals.tables import THESE_CONTENTS, TRANSIENT, contents, proposals

RESOURCE: Final = Resource(pb.Proposal, proposals, transient=TRANSIENT)

_KEEP = insert(contents).values(
    tenant_id=bindparam("tenant"),
    proposal_id=bindparam("proposal"),
    principal_id=bindparam("principal"),
    due_time=bindparam("due"),
    **{name: bindparam(name) for name in ("request", "changes", "scopes", "credential", "access")},
)
_READ = select(contents).where(*THESE_CONTENTS)
_SCHEDULE = update(contents).where(*THESE_CONTENTS).values(due_time=bindparam("due"))


async def keep(
    tx: Tx, proposal: UUID, request: bytes, changes: list[change_pb2.Change], caller: Caller, due: dt.datetime
) -> None:
    """Keeps what is proposed, and who proposes it with what rights."""
    values: dict[str, Any] = {
        "proposal": proposal,
        "request": request,
        "changes": [each.SerializeToString() for each in changes],
        "principal": caller.principal,
        "scopes": sorted(caller.scopes),
        "credential": caller.credential,
        "access": caller.access.encoded if caller.access is not None else b"",
        "due": due,
    }
    await tx.execute(_KEEP, values)


async def contents_of(tx: Tx, proposal: UUID) -> Row:
    """What was kept with a proposal."""
    return (await tx.rows(_READ, {"proposal": proposal}))[0]


async def schedule(tx: Tx, proposal: UUID, due: dt.datetime | None) -> None:
    """Says when something is to be done about a proposal; never, where None."""
    await tx.execute(_SCHEDULE, {"proposal": proposal, "due": due})


async def shown(tx: Tx, proposal: pb.Proposal, caller: Caller) -> pb.Proposal:
    """A proposal with what the caller may read of its contents."""
    found = pb.Proposal()
    found.CopyFrom(proposal)
    row = await contents_of(tx, RESOURCE.uuid(proposal.id))
    changes = [change_pb2.Change.FromString(each) for each in row.changes]
    foresight.show(found, proposable()[proposal.method], bytes(row.request), changes, caller)
    return found
