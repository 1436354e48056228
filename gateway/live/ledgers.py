"""The ledgers of every service, read in the order of their positions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from chassis.change import Change
from chassis.clients import Channels, service_caller
from chassis.context import Caller
from chassis.contract import load
from chassis.service import Server

_PATH = "/crm.internal.v1.LedgerService/ReadChanges"
_EVERY_TENANT = UUID(int=0)
_KIND = "gateway"
TIMEOUT_S = 5.0


class Page(NamedTuple):
    """Changes of one ledger, the highest position that was examined, and the ledger's highest."""

    changes: list[Change]
    position: int
    last_position: int


class Ledgers:
    """Reads any service's ledger: over the wire, and this process's own directly where it has a ``server``."""

    def __init__(self, channels: Channels, server: Server | None = None) -> None:
        self._channels = channels
        self._server = server
        self._method = load().methods[_PATH]

    async def read(
        self, ledger: str, after: int | datetime, *, tenant: UUID | None, limit: int = 500, settled: bool = False,
        actor: str = "",
    ) -> Page:  # fmt: skip
        """What follows a position, or was committed at a time or later; of one tenant, or of all where None,
        and of one ``actor``, or of everybody.

        ``settled`` waits until all that the tenant has committed has its position. Raises Failure where the service
        cannot be reached.
        """
        request: Any = self._method.request(limit=limit, all_tenants=tenant is None, settled=settled, actor=actor)
        if isinstance(after, datetime):
            request.start_time.FromDatetime(after)
        else:
            request.after_position = after
        caller = service_caller(_KIND, tenant or _EVERY_TENANT)
        answer = await self.call(ledger, _PATH, request.SerializeToString(), caller)
        page: Any = self._method.response.FromString(answer)
        changes = [
            Change.decode(ledger, each.position, UUID(each.tenant_id), each.change.SerializeToString())
            for each in page.changes
        ]
        return Page(changes, page.position, page.last_position)

    async def call(self, home: str, path: str, body: bytes, caller: Caller) -> bytes:
        """The answer of a method of any service. Raises the failure it answered with."""
        if home == _KIND and self._server is not None:
            return await self._server.handle(path, body, {}, TIMEOUT_S, caller=caller)
        return await self._channels.unary(home, path, body, caller=caller, timeout_s=TIMEOUT_S)
