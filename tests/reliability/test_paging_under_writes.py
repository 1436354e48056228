"""Paging to the end shows every row that was there throughout once, in order, whatever others write meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.reliability.conftest import Report
from tests.reliability.wire import Wire, each
from tests.running import Running

LEADS = "/crm.sales.v1.LeadService"
BATCH = 500
WRITERS = 6
PACE_S = 0.02
CHURNING = 60
READERS = 3
SIZES = (9, 50, 333, 1_000)
# Many equal values, values that are missing, and values that nothing else has.
ORDERS = ("", "create_time", "family_name", "family_name desc", "source, given_name desc", "update_time desc")
# In these no write moves a row, so even the rows that others change come at most once.
STEADY = ("", "create_time")


@dataclass
class Scans:
    """Leads that stay as they are, leads that others write, and what scans over both find."""

    wire: Wire
    random: random.Random
    stable: dict[str, None] = field(default_factory=dict)
    churning: list[str] = field(default_factory=list)
    in_order: dict[str, list[str]] = field(default_factory=dict)
    writes: int = 0
    pages: int = 0
    skipped: int = 0
    doubled: int = 0
    misplaced: int = 0

    async def fill(self, rows: int) -> None:
        """Makes the leads, and keeps the order of the stable ones from a scan in quiet."""
        for begin in range(0, rows, BATCH):
            made = await self._create(min(BATCH, rows - begin))
            self.stable.update(dict.fromkeys(made))
        self.churning = await self._create(CHURNING)
        for order in ORDERS:
            found = await self.scan(order, 1_000)
            self.in_order[order] = [row for row in found if row in self.stable]
            assert len(self.in_order[order]) == rows

    async def _create(self, count: int) -> list[str]:
        requests = [{"lead": self._lead()} for _ in range(count)]
        reply = await self.wire.good(f"{LEADS}/BatchCreateLeads", {"requests": requests, "atomic": True})
        return [result.lead.id for result in reply.results]

    def _lead(self) -> dict[str, Any]:
        some = {"given_name": f"G{self.random.randrange(1_000)}", "family_name": f"F{self.random.randrange(20)}"}
        return some if self.random.random() < 0.3 else some | {"source": self.random.choice("abc")}

    async def scan(self, order: str, size: int) -> list[str]:
        """The ids of all pages, one after the other."""
        found: list[str] = []
        token = ""
        while True:
            asked = {"page_size": size, "order_by": order, "page_token": token}
            reply = await self.wire.good(f"{LEADS}/ListLeads", asked)
            found += [lead.id for lead in reply.leads]
            self.pages += 1
            token = reply.next_page_token
            if not token:
                return found

    async def check(self, order: str) -> None:
        """Scans once and counts what is wrong."""
        size = self.random.choice(SIZES if len(self.stable) < 1_000 else SIZES[2:])
        times = Counter(await self.scan(order, size))
        self.skipped += sum(row not in times for row in self.stable)
        watched = times if order in STEADY else self.stable
        self.doubled += sum(times[row] > 1 for row in watched)
        self.misplaced += [row for row in times if row in self.stable] != self.in_order[order]

    async def write(self) -> None:
        """Changes what the orders sort by, deletes, brings back and creates, until it is cancelled."""
        while True:
            row = self.random.choice(self.churning)
            match self.random.choice(("update", "update", "delete", "undelete", "create")):
                case "update":
                    change = {"lead": {"id": row} | self._lead()}
                    code, _ = await self.wire.ask(f"{LEADS}/UpdateLead", change)
                case "create":
                    code, made = await self.wire.ask(f"{LEADS}/CreateLead", {"lead": self._lead()})
                    self.churning[self.random.randrange(CHURNING)] = made.id
                case verb:
                    code, _ = await self.wire.ask(f"{LEADS}/{verb.title()}Lead", {"id": row})
            self.writes += code is grpc.StatusCode.OK
            # The scans are what is tested; writers that take all there is would only make them slow.
            await asyncio.sleep(PACE_S)


@pytest.mark.line(13)
def test_a_scan_under_writes_skips_and_repeats_nothing(
    platform: Running, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    client = platform.tenant("Paging")
    wanted, rows = scale(50, 2_000), scale(200, 10_000)

    async def run() -> Scans:
        async with Wire(client) as wire:
            scans = Scans(wire, random.Random(seed))
            await scans.fill(rows)
            writers = asyncio.gather(*(scans.write() for _ in range(WRITERS)))
            await each(itertools.islice(itertools.cycle(ORDERS), wanted), READERS, scans.check)
            assert not writers.done(), writers.exception()
            writers.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writers
        return scans

    scans = asyncio.run(run())
    report(
        scans.skipped == scans.doubled == scans.misplaced == 0 and scans.writes > 0,
        scans=wanted, rows=rows, pages=scans.pages, writes=scans.writes, skipped=scans.skipped,
        doubled=scans.doubled, misplaced=scans.misplaced,
    )  # fmt: skip
