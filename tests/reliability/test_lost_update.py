"""No update is lost: with an etag two writers never overwrite each other, and without one masks keep fields apart."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.reliability.conftest import Report
from tests.reliability.wire import Wire, camel
from tests.running import Client, Running

DEALS = "/crm.sales.v1.DealService"
CONTACTS = "/crm.contacts.v1.ContactService"
HOT_ROWS = 10
WRITERS = 8
# A writer stays with a deal for so many increments, and reads it once: what it wrote last is what it read.
RUN = 10
# Each is one writer's own.
FIELDS = ("given_name", "family_name", "job_title", "description", "source")
SHARED_ROWS = 4


class Counters:
    """Deals whose amount is a counter: it may only grow by a read, an addition and a write with the etag read."""

    def __init__(self, wire: Wire, seed: int, wanted: int) -> None:
        self.wire = wire
        self.random = random.Random(seed)
        self.left = wanted
        self.done: dict[str, int] = {}
        self.refused = 0

    async def increment(self) -> None:
        """A run of increments on one of the deals after the other, each tried until it is in."""
        while self.left > 0:
            row = self.random.choice(list(self.done))
            deal = None
            for _ in range(RUN):
                if self.left <= 0:
                    return
                self.left -= 1
                while (deal := await self._written(deal or await self._read(row))) is None:
                    pass

    async def _read(self, row: str) -> Any:
        return await self.wire.good(f"{DEALS}/GetDeal", {"id": row})

    async def _written(self, deal: Any) -> Any:
        """The deal with one more, or None where its etag was stale."""
        more = {"currency_code": "EUR", "units": str(deal.amount.units + 1)}
        change = {"id": deal.id, "etag": deal.etag, "amount": more}
        code, reply = await self.wire.ask(f"{DEALS}/UpdateDeal", {"deal": change, "update_mask": "amount"})
        if code is grpc.StatusCode.OK:
            self.done[deal.id] += 1
            return reply
        if code is not grpc.StatusCode.ABORTED:
            raise AssertionError(f"{code} {reply}")
        self.refused += 1
        return None


@pytest.mark.line(12)
def test_no_increment_is_lost(platform: Running, scale: Callable[[int, int], int], seed: int, report: Report) -> None:
    client = platform.tenant("Lost update")
    wanted = scale(1_500, 200_000)

    async def run() -> Counters:
        async with Wire(client) as wire:
            counters = Counters(wire, seed, wanted)
            for number in range(HOT_ROWS):
                made = {"display_name": f"Counter {number}", "amount": {"currency_code": "EUR", "units": "0"}}
                counters.done[(await wire.good(f"{DEALS}/CreateDeal", {"deal": made})).id] = 0
            async with asyncio.TaskGroup() as group:
                for _ in range(WRITERS):
                    group.create_task(counters.increment())
        return counters

    counters = asyncio.run(run())
    lost = gaps = 0
    for row, done in counters.done.items():
        deal = client.get(f"/v1/deals/{row}")
        lost += abs(done - int(deal["amount"]["units"]))
        revisions = [each["revision"] for each in platform.rows("sales", client.tenant, _REVISIONS, row)]
        gaps += revisions != list(range(1, done + 2))
    report(
        lost == gaps == 0 and counters.refused > 0 and sum(counters.done.values()) == wanted,
        increments=sum(counters.done.values()), stale_refused=counters.refused, lost=lost, gaps=gaps,
    )  # fmt: skip


_REVISIONS = "SELECT revision FROM ledger WHERE entity_id = $1 ORDER BY revision"


@pytest.mark.line(12)
def test_writers_of_different_fields_do_not_clobber_each_other(
    platform: Running, scale: Callable[[int, int], int], report: Report
) -> None:
    """Nobody sends an etag; each writes one field with a mask, and always finds in it what it wrote last."""
    client = platform.tenant("Field masks")
    wanted = scale(800, 100_000)
    clobbered = asyncio.run(_write_fields(client, wanted))
    report(not clobbered, updates=wanted, clobbered=len(clobbered), first=clobbered[:3])


async def _write_fields(client: Client, wanted: int) -> list[str]:
    numbers = itertools.count(1)
    clobbered: list[str] = []
    async with Wire(client) as wire:

        async def own(row: str, field: str) -> None:
            last = ""
            while (number := next(numbers)) <= wanted:
                before = await wire.good(f"{CONTACTS}/GetContact", {"id": row}) if number % 4 == 0 else None
                if before is not None and last and getattr(before, field) != last:
                    clobbered.append(f"{field}: {getattr(before, field)} instead of {last}")
                last = f"{field} {number}"
                change = {"contact": {"id": row, field: last}, "update_mask": camel(field)}
                after = await wire.good(f"{CONTACTS}/UpdateContact", change)
                if getattr(after, field) != last:
                    clobbered.append(f"{field}: {getattr(after, field)} instead of {last}")

        rows = [
            await wire.good(f"{CONTACTS}/CreateContact", {"contact": {"given_name": "x"}}) for _ in range(SHARED_ROWS)
        ]
        async with asyncio.TaskGroup() as group:
            for row in rows:
                for field in FIELDS:
                    group.create_task(own(row.id, field))
    return clobbered
