"""Whoever changes a sealed ledger is found out, and nobody else is accused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from crm.internal.v1 import seal_pb2 as pb

from chassis.audit import Sealer, check_logs, heads
from tests.integration.events.conftest import broker, logs, server, stage  # noqa: F401  the fixtures
from tests.integration.events.stage import Stage, until
from tests.reliability.conftest import Report
from tests.reliability.tampering import MUTATIONS, Tamperer

OTHERS = 2


async def checked(stage: Stage, tenant: UUID, given: Sequence[Any] = (), row_limit: int = 0) -> pb.SealCheck:  # noqa: F811
    """The check of the ledger, from its beginning to its end."""
    checks: list[pb.SealCheck] = []
    while not checks or not checks[0].done:
        checks = await check_logs(stage.db, tenant, checks, given, row_limit)
    return checks[0]


async def numbered(stage: Stage) -> None:  # noqa: F811
    """Returns when every row has its position."""

    async def all_of_them() -> bool:
        return None not in await stage.positions()

    await until(all_of_them)


async def sealed_ledger(stage: Stage, rounds: int, rows: int) -> list[UUID]:  # noqa: F811
    """Tenants whose rows stand between each other's, sealed round by round."""
    tenants = [stage.tenant, *(uuid4() for _ in range(OTHERS))]
    await stage.relay()
    sealer = Sealer(stage.db, stage.settings)
    for _ in range(rounds):
        for _ in range(3):
            for tenant in tenants:
                await stage.commit(rows // 3, tenant=tenant)
        await numbered(stage)
        await sealer.seal()
    return tenants


def superuser(stage: Stage) -> Any:  # noqa: F811
    return asyncpg.connect(stage.settings.worker_database_url.get_secret_value())  # type: ignore[union-attr]


@pytest.mark.line(17)
async def test_every_change_behind_our_back_shows(
    stage: Stage,  # noqa: F811
    server: Any,  # noqa: F811
    seed: int,
    scale: Callable[[int, int], int],
    report: Report,
) -> None:
    tenants = await sealed_ledger(stage, rounds=5, rows=9)
    # The others go on after the last row of ours.
    await stage.commit(3, tenant=tenants[1])
    await numbered(stage)
    await Sealer(stage.db, stage.settings).seal()
    kept = await heads(stage.db, stage.tenant)
    alarms = [tenant for tenant in tenants if (await checked(stage, tenant, row_limit=7)).HasField("problem")]
    chance = random.Random(seed)
    database = stage.settings.database_url.get_secret_value().rpartition("/")[2].partition("?")[0]
    connection = await asyncpg.connect(server.dsn_for(database))
    missed, tried = [], 0
    try:
        tamperer = Tamperer(connection, stage.tenant, chance)
        await tamperer.keep()
        for number in range(scale(2 * len(MUTATIONS), 1_000)):
            mutation = MUTATIONS[number % len(MUTATIONS)]
            expected = await mutation(tamperer)
            check = await checked(stage, stage.tenant, kept)
            tried += 1
            if check.problem.kind not in expected:
                missed.append((mutation.__name__, check.problem))
            await tamperer.restore()
        again = [tenant for tenant in tenants if (await checked(stage, tenant)).HasField("problem")]
    finally:
        await connection.close()
    passed = not (missed or alarms or again)
    report(passed, mutations=tried, detected=tried - len(missed), false_alarms=len(alarms + again), missed=missed[:5])
