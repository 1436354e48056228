"""``make bench-data ROWS=10000``: fills a new tenant of the running platform with invented records.

ROWS each of people, companies, deals, leads and activities, a quarter as many touches, with their affiliations,
natural keys, ledger rows, timeline and marketing views. ``--people 10000000`` for more people than the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx2

from chassis import ids
from deploy.local.state import State
from services.sales.pipelines import first_pipeline
from tests.bench import data_copy
from tests.bench.data_clone import Stencil
from tests.bench.data_people import Size, World
from tests.bench.data_records import KINDS

MOST_PEOPLE: Final = 10_000_000
# Above so many people the machine must have room to spare.
_MANY: Final = 1_000_000
_MANY_FREE_BYTES: Final = 40 * 10**9
# What a person, and one record of each other kind together, take with all that belongs to them: measured, rounded up.
_BYTES_PERSON: Final = 3_500
_BYTES_ROW: Final = 20_000
_SAMPLES: Final = 1_000


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
    stencils = _stencils(world)  # first: no connection waits meanwhile
    written = asyncio.run(_fill(owners, world, stencils))
    samples = {}
    for kind in KINDS:
        blocks = [world.at(block) for block in range(world.size.people_blocks)]
        counts = [kind.count(each) for each in blocks]
        step = max(1, sum(counts) // _SAMPLES)
        numbers = ((each, number) for each, count in zip(blocks, counts, strict=True) for number in range(count))
        samples[kind.prefix] = [each.id(kind.prefix, number) for each, number in islice(numbers, 0, None, step)]
    return Filled(
        tenant, key, url, world.size, samples, world.id("contact", 0), first_pipeline(tenant).id, written,
        time.monotonic() - began,
    )  # fmt: skip


def check_room(size: Size, data: Path) -> None:
    """Raises SystemExit where the disk would run full."""
    if size.people > MOST_PEOPLE:
        raise SystemExit(f"at most {MOST_PEOPLE:,} people")
    free = shutil.disk_usage(data).free
    need = max(size.rows * _BYTES_ROW + size.people * _BYTES_PERSON, _MANY_FREE_BYTES if size.people > _MANY else 0)
    if free < need:
        raise SystemExit(
            f"{size.people:,} people and {size.rows:,} of each other kind need {need / 1e9:.0f} GB free at {data};"
            f" there are {free / 1e9:.0f} GB"
        )


def _stencils(world: World) -> list[tuple[Stencil, range]]:
    """What is copied, and to which blocks."""
    made = []
    for service in data_copy.SCHEMAS:
        made += [(_stencil(service, world), range(1)), (_stencil(service, world.at(1)), range(1, world.size.blocks))]
    more = range(world.size.blocks, world.size.people_blocks)
    return [*made, (_stencil("contacts", world.at(more.start)), more)] if more else made


async def _fill(owners: Mapping[str, str], world: World, stencils: Sequence[tuple[Stencil, range]]) -> int:
    turns = asyncio.Semaphore(os.cpu_count() or 2)
    async with data_copy.connected(owners) as services, data_copy.open_to_owners(services):
        written = await asyncio.gather(*(_copies(owners, world, turns, *each) for each in stencils))
        await data_copy.spell(services, world.tenant)
        await data_copy.analyze(services)
    return sum(written)


async def _copies(
    owners: Mapping[str, str], world: World, turns: asyncio.Semaphore, stencil: Stencil, blocks: range
) -> int:
    """Fills blocks of a service's tables and what follows from them in others, one after the other."""
    async with data_copy.connected(owners) as services:
        await stencil.prepare(services)
        written = 0
        for block in blocks:
            async with turns:
                written += await stencil.copy(world.at(block), services)
    return written


def _stencil(service: str, world: World) -> Stencil:
    kinds = [kind for kind in KINDS if kind.service == service and kind.count(world)]
    chunks = [data_copy.chunk_of(kind, world) for kind in kinds]
    return Stencil(service, world, data_copy.tables_of(service, chunks, 1))


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
