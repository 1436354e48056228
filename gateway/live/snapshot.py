"""Every record as it is now, with an exact seam to what changes from then on.

The positions are taken first, then the records are read. What is committed meanwhile is in the ledgers after those
positions, and perhaps in the records as well; there it is told by revision.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import UUID

from crm.gateway.v1 import event_pb2 as pb

from chassis import ids
from chassis.change import Change
from chassis.context import Caller
from chassis.contract import Method, ResourceType, load
from chassis.errors import DeadlineExceeded
from chassis.rows import moment
from gateway.live.ledgers import Ledgers
from gateway.live.rendering import revision_of, snapshot_of
from gateway.live.replay import LEDGERS, Positions
from gateway.live.wanted import Wanted
from gateway.transcode import Transcoder

_PAGE: Final = 500
# A change has its place in its ledger by the time its transaction began, or up to so much later. No call lasts longer.
_SLACK: Final = dt.timedelta(minutes=5)
# How often the end is waited for, each time as long as a call may last, while a relay does not number its ledger.
_PATIENCE: Final = 6


class Snapshot:
    """The records of what is wanted, and which of the changes after ``start`` they show already."""

    def __init__(self, ledgers: Ledgers, wanted: Wanted, start: Positions, codec: Transcoder) -> None:
        self._ledgers = ledgers
        self._wanted = wanted
        self._start = start
        self._codec = codec
        self._since: dict[str, dt.datetime | None] = {}
        # The revisions of records that may have changed after the start. Older ones have no change there.
        self._shown: dict[UUID, int] = {}

    async def begin(self) -> None:
        """Learns from when on a record's last change may lie after the start."""
        for ledger, position in self._start.items():
            page = await self._ledgers.read(ledger, max(0, position - 1), tenant=None, limit=1)
            found = page.changes[0] if page.changes and page.changes[0].position == position else None
            self._since[ledger] = found.commit_time - _SLACK if found is not None else None

    async def records(self, caller: Callable[[], Caller]) -> AsyncIterator[pb.Event]:
        """Every wanted record that the caller may read, page by page, as events."""
        for name in sorted(self._wanted.resources()):
            kind = load().by_message[name]
            method = _list_method(kind)
            token = "" if method is not None and caller().may(method.permission) else None
            while method is not None and token is not None:
                page = await self._page(kind, method, token, caller())
                for record in getattr(page, page.DESCRIPTOR.fields[0].name):
                    # Also where it is not shown: what happened before is not what it is now.
                    self._note(kind, record)
                    if self._wanted.shows(record, caller()):
                        yield snapshot_of(record, self._codec, caller())
                token = page.next_page_token or None

    async def _page(self, kind: ResourceType, method: Method, token: str, caller: Caller) -> Any:
        # By id, which no change of a record changes: none is skipped because it changed meanwhile.
        request: Any = method.request(page_size=_PAGE, page_token=token, order_by="id")
        body = await self._ledgers.call(kind.home, method.path, request.SerializeToString(), caller)
        return method.response.FromString(body)

    def _note(self, kind: ResourceType, record: Any) -> None:
        since = self._since[kind.home]
        if since is None or moment(record.update_time) >= since:
            self._shown[ids.decode(record.id)[1]] = revision_of(record)

    async def end(self, tenant: UUID) -> Positions:
        """Positions that no change which a record shows is beyond. Waits for what has none yet."""
        return {ledger: await self._last(ledger, tenant) for ledger in LEDGERS}

    async def _last(self, ledger: str, tenant: UUID) -> int:
        for left in reversed(range(_PATIENCE)):
            try:
                page = await self._ledgers.read(ledger, 2**62, tenant=tenant, limit=1, settled=True)
            except DeadlineExceeded:
                if not left:
                    raise
            else:
                return page.last_position
        raise AssertionError("the last attempt returns or raises")

    def shows(self, change: Change) -> bool:
        """Whether the record was read after this change."""
        return change.revision <= self._shown.get(change.entity_uuid, 0)


def _list_method(kind: ResourceType) -> Method | None:
    """The method that lists records of a kind."""
    for method in load().methods_of(f"{kind.full_name}Service"):
        fields = method.descriptor.output_type.fields
        first = fields[0].message_type if fields else None
        if method.name.startswith("List") and first is not None and first.full_name == kind.full_name:
            return method
    return None
