"""Constant moderate load for a while, and what it does to the memory of each process."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvloop

from deploy.local.parts import KINDS
from tests.bench import records
from tests.bench.goals import Row, Value, at_most
from tests.bench.measure import rss_mb
from tests.bench.records import Records
from tests.bench.stack import Stack

RATE = 20.0  # requests a second: a fraction of what two processors serve
# Over half an hour this is a little more than what allocators move by themselves.
BOUND_MB_AN_HOUR = 4.0
_EVERY_S = 60.0
_AT_ONCE = 32


@dataclass
class Watched:
    """Resident megabytes by process, at so many seconds after the begin."""

    at_s: list[float] = field(default_factory=list)
    mb: dict[str, list[float]] = field(default_factory=dict)

    def take(self, at_s: float, stack: Stack) -> None:
        """Looks at every process now."""
        self.at_s.append(at_s)
        for name, entry in stack.state.processes().items():
            self.mb.setdefault(name, []).append(rss_mb([entry["pid"]]) if name != "supervisor" else 0.0)

    def slope(self, name: str) -> float:
        """Megabytes an hour by least squares, after the first third."""
        first = len(self.at_s) // 3
        times, values = self.at_s[first:], self.mb[name][-len(self.at_s) :][first:]
        return statistics.linear_regression(times, values).slope * 3600 if len(times) > 1 else 0.0


def run(stack: Stack, minutes: float) -> list[Row]:
    """Loads for so many minutes, prints the memory every minute, and says how fast each Python process grew."""
    found = records.fill(stack)
    watched, failed = uvloop.run(_load(stack, found, minutes * 60))
    print(f"{failed} requests failed")
    rows = []
    for name in watched.mb:
        slope = watched.slope(name)
        if name.rpartition("-")[0] in KINDS:
            beside = {"start MB": watched.mb[name][0], "end MB": watched.mb[name][-1]}
            rows.append(at_most(f"soak {name}", Value(slope, slope, slope), "MB/h", BOUND_MB_AN_HOUR, beside=beside))
    return rows


async def _load(stack: Stack, found: Records, seconds: float) -> tuple[Watched, int]:
    watched, failed, running = Watched(), 0, set[asyncio.Task[bool]]()
    headers = {"Authorization": f"Bearer {found.client.key}"}
    async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as http:
        requests, began = _mix(http, found), time.perf_counter()
        for number in itertools.count():
            due_s = number / RATE
            await asyncio.sleep(began + due_s - time.perf_counter())
            if due_s >= len(watched.at_s) * _EVERY_S:
                watched.take(due_s, stack)
                _print(watched)
            if due_s >= seconds:
                break
            if len(running) < _AT_ONCE:
                task = asyncio.create_task(_good(random.choice(requests)()))
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                failed += 1
        failed += [*await asyncio.gather(*running)].count(False)
    return watched, failed


async def _good(request: Awaitable[httpx2.Response]) -> bool:
    return (await request).is_success


def _mix(http: httpx2.AsyncClient, found: Records) -> Sequence[Callable[[], Awaitable[httpx2.Response]]]:
    """Four gets to two pages, two creates and one move."""
    numbers = itertools.count()
    stages = itertools.cycle(found.stages)

    def move() -> Awaitable[httpx2.Response]:
        # The same stage now and then: refused, as in life, and counted as a failure by nobody.
        deal, _ = random.choice(found.deals)
        return http.post(f"/v1/deals/{deal}:move", json={"stage_id": next(stages)})

    def get() -> Awaitable[httpx2.Response]:
        return http.get(f"/v1/contacts/{random.choice(found.people)}")

    def page() -> Awaitable[httpx2.Response]:
        return http.get("/v1/contacts?page_size=50&order_by=display_name")

    def create() -> Awaitable[httpx2.Response]:
        body: dict[str, Any] = records.person(next(numbers))
        return http.post("/v1/contacts", json=body)

    return [get, get, get, get, page, page, create, create, move]


def _print(watched: Watched) -> None:
    shown = "  ".join(f"{name} {values[-1]:.1f}" for name, values in watched.mb.items() if name != "supervisor")
    print(f"{watched.at_s[-1] / 60:4.0f} min  MB  {shown}", flush=True)
