"""``make bench-data ROWS=10000``: fills a new tenant of the running platform with invented records.

ROWS each of people, companies, deals, leads and activities, a quarter as many touches, with their affiliations,
natural keys, ledger rows, timeline and marketing views. ``--people 10000000`` for more people than the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx2

from chassis import ids
from deploy.local.state import State
from services.sales.pipelines import first_pipeline
from tests.bench import data_copy
from tests.bench.data_people import Size, World
from tests.bench.data_records import KINDS

MOST_PEOPLE: Final = 10_000_000
# Above so many people the machine must have room to spare.
_MANY: Final = 1_000_000
_MANY_FREE_BYTES: Final = 40 * 10**9
# What a record of each kind takes with its keys, ledger rows, timeline and indexes, rounded up from a measured fill.
_BYTES_EACH: Final = 5_000
_SAMPLES: Final = 1_000
# Below, starting processes takes longer than the work.
_WORTH_PROCESSES: Final = 5_000


@dataclass(frozen=True)
class Filled:
    """A tenant with invented records.

    ``samples`` are ids by prefix, spread evenly over all; ``busiest`` is the contact with the longest timeline.
    """

    tenant: UUID
    api_key: str
    url: str
    size: Size
    samples: Mapping[str, Sequence[str]]
    busiest: str
    pipeline: str
    rows: int
    seconds: float

    def paths(self, prefix: str) -> list[str]:
        """REST paths of the sample records of a kind."""
        plural = next(kind.resource.kind.plural for kind in KINDS if kind.prefix == prefix)
        return [f"/v1/{plural}/{each}" for each in self.samples[prefix]]


def fill(env: Mapping[str, str], rows: int, *, people: int | None = None, name: str = "Benchmark") -> Filled:
    """Makes a tenant of that name on the platform that ``env`` (its env file) describes, and fills it.

    Raises SystemExit with a reason where the disk has no room.
    """
    check_room(Size.of(rows, people), Path(env["RAPPORT_PGDATA"]))
    with httpx2.Client(
        base_url=env["RAPPORT_URL"], headers={"Authorization": f"Bearer {env['RAPPORT_API_KEY']}"}, timeout=60
    ) as http:
        answer = http.post("/v1/tenants", json={"display_name": name}).raise_for_status().json()
        key = answer["admin_secret"]
        # Reading them makes the first one, in which the deals are.
        http.get("/v1/pipelines", headers={"Authorization": f"Bearer {key}"}).raise_for_status()
    tenant = ids.decode(answer["id"])[1]
    owners = {each: env[f"RAPPORT_{each.upper()}_OWNER_DATABASE_URL"] for each in data_copy.SCHEMAS}
    return fill_tenant(owners, tenant, rows, people=people, key=key, url=env["RAPPORT_URL"])


def fill_tenant(
    owners: Mapping[str, str], tenant: UUID, rows: int, *, people: int | None = None, key: str = "", url: str = ""
) -> Filled:
    """Fills a tenant that exists and has its first pipeline. ``owners`` are the owner roles' addresses by service."""
    began = time.monotonic()
    world = World(tenant, Size.of(rows, people), dt.datetime.now(dt.UTC).replace(microsecond=0))
    written = asyncio.run(_fill(owners, world))
    samples = {}
    for kind in KINDS:
        count = kind.count(world.size)
        step = max(1, count // _SAMPLES)
        samples[kind.prefix] = [world.id(kind.prefix, number) for number in range(0, count, step)]
    return Filled(
        tenant, key, url, world.size, samples, world.id("contact", 0), first_pipeline(tenant).id, written,
        time.monotonic() - began,
    )  # fmt: skip


def check_room(size: Size, data: Path) -> None:
    """Raises SystemExit where the disk would run full."""
    if size.people > MOST_PEOPLE:
        raise SystemExit(f"at most {MOST_PEOPLE:,} people")
    free = shutil.disk_usage(data).free
    records = sum(kind.count(size) for kind in KINDS)
    need = max(records * _BYTES_EACH, _MANY_FREE_BYTES if size.people > _MANY else 0)
    if free < need:
        raise SystemExit(
            f"{size.people:,} people and {size.deals:,} of each other kind need {need / 1e9:.0f} GB free at {data};"
            f" there are {free / 1e9:.0f} GB"
        )


async def _fill(owners: Mapping[str, str], world: World) -> int:
    async with data_copy.connected(owners) as services, data_copy.open_to_owners(services):
        if sum(kind.count(world.size) for kind in KINDS) < _WORTH_PROCESSES:
            written = sum([await _fill_service(owners, world, name) for name in data_copy.SCHEMAS])
        else:
            written = await _in_processes(owners, world)
        await data_copy.analyze(services)
    return written


async def _in_processes(owners: Mapping[str, str], world: World) -> int:
    """Each service in a process of its own, as many at once as there are processors."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        jobs = [loop.run_in_executor(pool, _process, dict(owners), world, name) for name in data_copy.SCHEMAS]
        return sum(await asyncio.gather(*jobs))


def _process(owners: Mapping[str, str], world: World, service: str) -> int:
    return asyncio.run(_fill_service(owners, world, service))


async def _fill_service(owners: Mapping[str, str], world: World, service: str) -> int:
    written = 0
    kinds = [kind for kind in KINDS if kind.service == service]
    async with data_copy.connected(owners) as services:
        for kind, numbers in data_copy.shuffle(kinds, world):
            written += await data_copy.write(data_copy.chunk_of(kind, world, numbers), services)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Fills and says what there is now."""
    parser = argparse.ArgumentParser(prog="make bench-data", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="of each kind")
    parser.add_argument("--people", type=int, help=f"more people than ROWS, up to {MOST_PEOPLE:,}")
    parser.add_argument("--name", default="Benchmark", help="the tenant's name")
    asked = parser.parse_args(arguments)
    env = State.from_environment().env()
    if not env:
        raise SystemExit("no platform runs here: `make up DETACH=1` starts it")
    filled = fill(env, asked.rows, people=asked.people, name=asked.name)
    sys.stdout.write(
        f"{filled.rows:,} rows in {filled.seconds:.1f} s, {filled.rows / filled.seconds:,.0f} a second\n"
        f"tenant {ids.encode('tenant', filled.tenant)}\nkey {filled.api_key}\n"
        f"busiest contact {filled.busiest}\n"
    )


if __name__ == "__main__":
    main()
