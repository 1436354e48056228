"""The sealer: gives the rows of a service's logs their seals, behind the writers and without a lock they would meet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select

from chassis import telemetry
from chassis.audit.statements import AT_ONCE, Statements, statements_of
from chassis.chain import GENESIS, entry_of, seal_hash
from chassis.db import Database
from chassis.errors import Aborted, Reason
from chassis.events.leadership import candidate, hold, lock_key
from chassis.service import Platform
from chassis.settings import Settings
from chassis.sql import Connection, Row

_BEFORE_ALL: Final = UUID(int=0)
_NO_END: Final = 2**62
_NOW: Final = select(func.clock_timestamp().label("now"))

log = telemetry.logger()


async def seal_logs(platform: Platform) -> None:
    """Seals what was written, at the latest so many seconds later as the settings say. Never ends."""
    sealer = Sealer(platform.db, platform.settings)
    while True:
        await asyncio.sleep(await sealer.turn())


class Sealer:
    """The sealer of one process. Every replica has one; one of them works at a time, by an advisory lock."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._every_s = settings.seal_every_s
        dsn = settings.leader_dsn or settings.worker_database_url
        if dsn is None:
            raise ValueError("a sealer needs RAPPORT_WORKER_DATABASE_URL")
        self._dsn = dsn.get_secret_value()
        self._name = f"{db.schema.name} sealer"
        self._logs = [statements_of(db.schema, each) for each in db.schema.logs]

    async def turn(self) -> float:
        """Seals what is due, where no other replica is at it; says after how many seconds to come again."""
        waits = [await self._wait(each) for each in self._logs]
        due = [each for each, wait_s in zip(self._logs, waits, strict=True) if wait_s <= 0]
        if due:
            await self._lead(due)
        # Replicas need not all come at the same time.
        return min(wait_s if wait_s > 0 else self._every_s for wait_s in waits) * random.uniform(0.9, 1.0)

    async def _wait(self, each: Statements) -> float:
        """The seconds until a log is to be sealed: 0 where that is now."""
        if each.log.per_tenant:
            return 0.0
        async with self._db.worker() as connection:
            sealed, last = (await connection.rows(each.reach))[0]
            newest = await connection.rows(each.newest)
        if sealed >= last:
            return self._every_s
        passed_s = (newest[0].now - newest[0].seal_time).total_seconds() if newest else self._every_s
        return float(min(max(0.0, self._every_s - passed_s), self._every_s))

    async def _lead(self, due: Sequence[Statements]) -> None:
        async with candidate(self._dsn, self._name) as lock:
            if not await lock.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(self._name)):
                return
            beat = asyncio.create_task(hold(lock), name=f"{self._name} lock")
            work = asyncio.create_task(self._seal_all(due), name=self._name)
            try:
                await asyncio.wait([beat, work], return_when=asyncio.FIRST_COMPLETED)
                (work if work.done() else beat).result()
            finally:
                for task in (beat, work):
                    task.cancel()
                await asyncio.gather(beat, work, return_exceptions=True)

    async def seal(self) -> int:
        """Seals all that is numbered now, due or not; how many rows that were.

        Two that do so at once cannot both make the same seal: one of them fails on its key, and nothing is amiss.
        """
        return await self._seal_all(self._logs)

    async def _seal_all(self, due: Sequence[Statements]) -> int:
        total = 0
        for each in due:
            stretches = _each_tenant(self._db, each) if each.log.per_tenant else _in_order(self._db, each)
            async for count in stretches:
                total += count
        return total


async def _in_order(db: Database, its: Statements) -> AsyncIterator[int]:
    """Seals a log whose positions count over all tenants, a stretch at a time; yields how many rows each has.

    A stretch is sealed for all its tenants in one transaction, so the highest position that any seal has says how far
    all of them are.
    """
    done, end = 0, 1
    while done < end:
        async with db.worker() as connection:
            sealed, end = (await connection.rows(its.reach))[0]
            # Where rows are gone that were numbered, nothing says that the stretch was done.
            done = max(done, sealed)
            until = min(done + AT_ONCE, end)
            rows = await connection.rows(its.stretch, {"after": done, "until": until}) if done < end else []
            if len(rows) != until - done:
                log.error("rows that were numbered are gone, or doubled", log=its.log.name, after=done, until=until)
            await _seal(connection, its, rows)
        yield len(rows)
        done = until


async def _each_tenant(db: Database, its: Statements) -> AsyncIterator[int]:
    """Seals a log whose positions count for each tenant by itself, one tenant after the other."""
    tenant = _BEFORE_ALL
    while True:
        async with db.worker() as connection:
            found = await connection.rows(its.next_tenant, {"before": tenant})
        if not found:
            return
        tenant = found[0].tenant_id
        count = AT_ONCE
        while count == AT_ONCE:
            async with db.worker() as connection:
                last = await connection.rows(its.last_seals, {"tenants": [tenant]})
                after = last[0].last_position if last else 0
                given = {"tenant": tenant, "after": after, "until": _NO_END, "most": AT_ONCE}
                rows = await connection.rows(its.piece, given)
                await _seal(connection, its, rows)
            count = len(rows)
            yield count


async def _seal(connection: Connection, its: Statements, rows: Sequence[Row]) -> None:
    """Adds a seal for each tenant that has some of the rows, which are in the order of their positions."""
    if not rows:
        return
    # The order of the rows of one tenant stays as it is.
    by_tenant = {tenant: list(own) for tenant, own in groupby(sorted(rows, key=_tenant), key=_tenant)}
    last = {each.tenant_id: each for each in await connection.rows(its.last_seals, {"tenants": list(by_tenant)})}
    now = (await connection.rows(_NOW))[0].now
    made = [_made(its, own, last.get(tenant), now) for tenant, own in by_tenant.items()]
    await connection.execute_many(its.add, made)


def _tenant(row: Row) -> UUID:
    tenant: UUID = row["of_tenant"]
    return tenant


def _made(its: Statements, rows: Sequence[Row], last: Row | None, now: datetime) -> dict[str, Any]:
    """The seal of a tenant's rows, which follows the tenant's ``last``."""
    positions = [row["at_position"] for row in rows]
    if last is not None and last.last_position >= positions[0]:
        raise Aborted(Reason.REASON_CONFLICT, "another sealer was faster")
    seal = {
        "tenant_id": _tenant(rows[0]),
        "sequence": 1 if last is None else last.sequence + 1,
        "first_position": positions[0],
        "last_position": positions[-1],
        "row_count": len(rows),
        "seal_time": now,
        "entries": b"".join([entry_of(row) for row in rows]),
    }
    return seal | {"hash": seal_hash(its.service, its.log.name, seal, GENESIS if last is None else last.hash)}
