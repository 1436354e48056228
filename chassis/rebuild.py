"""A service's whole ledger read by another one, to make again what that keeps of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Final
from uuid import UUID

from crm.internal.v1 import ledger_pb2 as pb

from chassis.change import Change
from chassis.clients import Channels, service_caller
from chassis.errors import Exhausted

_READ: Final = "/crm.internal.v1.LedgerService/ReadChanges"
_NO_TENANT: Final = UUID(int=0)
_PAGE: Final = 1_000
_LIMIT_S: Final = 30.0


async def pages(channels: Channels, reader: str, home: str, after: int = 0) -> AsyncIterator[tuple[int, list[Change]]]:
    """The changes of every tenant in the ledger of ``home`` to its end, with the position that each page reaches.

    ``reader`` is the service that reads.
    """
    limit = _PAGE
    while True:
        request = pb.ReadChangesRequest(after_position=after, limit=limit, all_tenants=True)
        caller = service_caller(reader, _NO_TENANT)
        try:
            answer = await channels.call(
                _READ, request, pb.ReadChangesResponse.FromString, kind=home, caller=caller, timeout_s=_LIMIT_S
            )
        except Exhausted:
            if limit == 1:
                raise
            limit //= 2  # these records are large
            continue
        after = answer.position
        yield after, [Change(home, each.position, UUID(each.tenant_id), each.change) for each in answer.changes]
        if after >= answer.last_position:
            return


def by_tenant(changes: list[Change]) -> Iterator[tuple[UUID, list[Change]]]:
    """The changes of each tenant, in their order."""
    tenant = attrgetter("tenant")
    for each, own in groupby(sorted(changes, key=tenant), key=tenant):
        yield each, list(own)
