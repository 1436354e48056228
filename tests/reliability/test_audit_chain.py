"""Whoever changes a sealed ledger is found out, and nobody else is accused."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest
from crm.internal.v1 import seal_pb2 as pb
from crm.type.v1 import audit_pb2
from sqlalchemy import insert, select

from chassis.audit import Sealer, check_logs, heads
from deploy.local import children
from tests.integration.events.conftest import broker, logs, server, stage  # noqa: F401  the fixtures
from tests.integration.events.stage import READS, SCHEMA, Stage, until
from tests.reliability.conftest import Report
from tests.reliability.tampering import EDITS, MUTATIONS, Tamperer, edit

OTHERS = 2
ROOT = Path(__file__).resolve().parents[2]


async def checked(stage: Stage, tenant: UUID, given: Sequence[Any] = (), row_limit: int = 0) -> pb.SealCheck:  # noqa: F811
    """The check of the ledger, from its beginning to its end."""
    checks: list[pb.SealCheck] = []
    while not checks or not checks[0].done:
        checks = await check_logs(stage, tenant, checks, given, row_limit)
    return checks[0]


async def numbered(stage: Stage) -> None:  # noqa: F811
    """Returns when every row has its position."""

    unnumbered = select(SCHEMA.ledger.c.id).where(SCHEMA.ledger.c.position.is_(None)).limit(1)

    async def none_left() -> bool:
        async with stage.db.worker() as connection:
            return not await connection.rows(unnumbered)

    await until(none_left, limit_s=300)


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


def superuser(stage: Stage, server: Any) -> Any:  # noqa: F811
    """A connection that no wall holds."""
    database = stage.settings.database_url.get_secret_value().rpartition("/")[2]
    return asyncpg.connect(server.dsn_for(database))


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
    connection = await superuser(stage, server)
    missed, tried = [], 0
    try:
        tamperer = Tamperer(connection, stage.tenant, random.Random(seed))
        await tamperer.keep()
        # Each way once, and each column edited.
        plan = [*MUTATIONS, *[edit] * len(EDITS)]
        for number in range(scale(len(plan), 1_000)):
            mutation = plan[number % len(plan)]
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


@pytest.mark.line(17)
async def test_an_erased_body_is_told_from_a_changed_one(stage: Stage, server: Any, report: Report) -> None:  # noqa: F811
    await sealed_ledger(stage, rounds=2, rows=3)
    connection = await superuser(stage, server)
    try:
        await connection.execute(
            "UPDATE ledger SET after_digest = sha256(after), after = '' WHERE tenant_id = $1 AND position <= 4",
            stage.tenant,
        )
    finally:
        await connection.close()
    check = await checked(stage, stage.tenant)
    report(not check.HasField("problem"), rows=check.checked_rows, erased=check.redacted_rows)
    assert check.redacted_rows > 0


@pytest.mark.line(17)
async def test_sealers_that_are_killed_beside_writers_leave_a_whole_chain(
    stage: Stage,  # noqa: F811
    tmp_path: Path,
    scale: Callable[[int, int], int],
    time_left: Callable[[], bool],
    report: Report,
) -> None:
    tenants = [stage.tenant, *(uuid4() for _ in range(OTHERS))]
    await stage.relay()
    running = [sealer_process(stage, tmp_path, number) for number in range(2)]
    rounds, kills, alarms, previous = scale(3, 200), 0, 0, 0
    try:
        for number in range(rounds):
            for tenant in tenants:
                await stage.commit(20, tenant=tenant)
            check = await until_sealed(stage, stage.tenant, beyond=previous)
            alarms += check.HasField("problem")
            previous = check.checked_rows
            running[number % 2].kill()
            running[number % 2].wait()
            running[number % 2] = sealer_process(stage, tmp_path, number)
            kills += 1
            if not time_left():
                break
        ends = [await until_sealed(stage, tenant, beyond=20 * kills - 1) for tenant in tenants]
    finally:
        for each in running:
            children.stop(each)
    rows = sum(each.checked_rows for each in ends)
    alarms += sum(each.HasField("problem") for each in ends)
    lacking = [each for each in ends if each.unsealed_rows or each.checked_rows != 20 * kills]
    report(not (alarms or lacking), kills=kills, rows=rows, false_alarms=alarms, lacking=len(lacking))


def sealer_process(stage: Stage, directory: Path, number: int) -> Any:  # noqa: F811
    """A sealer of the stage, as each replica has one."""
    return children.spawn(
        [sys.executable, "-m", "tests.integration.events.sealer_process"],
        directory / f"sealer-{number}.log",
        env={
            **os.environ,
            **stage.environment(),
            "RAPPORT_SEAL_EVERY_S": "0.1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        },
        cwd=ROOT,
    )


async def until_sealed(stage: Stage, tenant: UUID, beyond: int) -> pb.SealCheck:  # noqa: F811
    """A check that finds more rows sealed than there were, or something wrong."""

    async def more() -> pb.SealCheck | None:
        check = await checked(stage, tenant)
        return check if check.checked_rows > beyond or check.HasField("problem") else None

    found: pb.SealCheck = await until(more)
    return found


@pytest.mark.line(17)
async def test_a_whole_ledger_raises_no_alarm(
    stage: Stage,  # noqa: F811
    server: Any,  # noqa: F811
    scale: Callable[[int, int], int],
    time_left: Callable[[], bool],
    report: Report,
) -> None:
    wanted, rows = scale(3_000, 1_000_000), 0
    relay = await stage.relay(relay_batch=5_000)
    while rows < wanted and time_left():
        await stage.commit(1_000, tenant=stage.tenant if rows % 3_000 else uuid4())
        rows += 1_000
        relay.wake()
    await numbered(stage)
    cpu = [cpu_s(server)]
    sealed = await Sealer(stage.db, stage.settings).seal()
    cpu.append(cpu_s(server))
    check = await checked(stage, stage.tenant)
    cpu.append(cpu_s(server))
    figures: dict[str, Any] = {"sealed": sealed, "checked": check.checked_rows}
    for name, rows_done, before, after in (
        ("seal", sealed, cpu[0], cpu[1]),
        ("check", check.checked_rows, cpu[1], cpu[2]),
    ):
        for part, spent_s in zip(("python", "postgres"), (after[0] - before[0], after[1] - before[1]), strict=True):
            figures[f"{name}_{part}_ms_per_10000"] = round(spent_s / max(1, rows_done) * 1e7)
    report(not check.HasField("problem") and sealed == rows and not check.unsealed_rows, **figures)


def cpu_s(server: Any) -> tuple[float, float]:  # noqa: F811
    """The CPU seconds of this process and of the database's until now."""
    database = psutil.Process(server.process.pid)
    spent = [each.cpu_times() for each in (database, *database.children(recursive=True))]
    return time.process_time(), sum(each.user + each.system for each in spent)


async def keep_reads(stage: Stage) -> list[UUID]:  # noqa: F811
    """Two tenants with two seals of five reads each."""
    tenants = [stage.tenant, uuid4()]
    for start in (1, 6):
        for tenant in tenants:
            async with stage.db.write(tenant) as tx:
                now = await tx.now()
                await tx.execute_many(
                    insert(READS),
                    [
                        {"tenant_id": tenant, "position": at, "reader": "user", "fields": ["a", "b"],
                         "note": b"\x00\x01", "read_time": now}
                        for at in range(start, start + 5)
                    ],
                )  # fmt: skip
        assert await Sealer(stage.db, stage.settings).seal() == 10
    return tenants


async def checked_reads(kept: Any, tenant: UUID) -> pb.SealCheck:
    """The check of the reads, from its beginning to its end."""
    checks = [pb.SealCheck(log="reads")]
    while not checks[0].done:
        checks = [(await check_logs(kept, tenant, checks, []))[1]]
    return checks[0]


async def test_a_log_of_positions_per_tenant_is_sealed_too(stage: Stage, server: Any) -> None:  # noqa: F811
    for tenant in await keep_reads(stage):
        check = (await check_logs(stage, tenant, [pb.SealCheck(log="reads")], [], 1))[1]
        assert (check.sequence, check.checked_rows, check.HasField("problem")) == (1, 5, False)
        ended = await checked_reads(stage, tenant)
        assert (ended.sequence, ended.checked_rows, ended.unsealed_rows) == (2, 10, 0)
        assert not ended.HasField("problem")
    connection = await superuser(stage, server)
    try:
        await connection.execute("UPDATE reads SET note = '' WHERE tenant_id = $1 AND position = 7", stage.tenant)
    finally:
        await connection.close()
    problem = (await checked_reads(stage, stage.tenant)).problem
    assert problem.kind == audit_pb2.AUDIT_PROBLEM_KIND_ROW_CHANGED
    assert (problem.sequence, problem.position) == (2, 7)


@pytest.mark.parametrize(
    ("gone", "expired", "kind"),
    [
        ("position <= 3", 3, 0),
        ("position <= 7", 7, 0),
        ("true", 10, 0),
        ("position = 2", 0, audit_pb2.AUDIT_PROBLEM_KIND_ROW_MISSING),
        ("position IN (1, 4)", 1, audit_pb2.AUDIT_PROBLEM_KIND_ROW_MISSING),
        ("position > 5", 0, audit_pb2.AUDIT_PROBLEM_KIND_ROW_MISSING),
    ],
)
async def test_only_the_oldest_rows_may_be_gone_and_only_after_their_time(
    stage: Stage,  # noqa: F811
    server: Any,  # noqa: F811
    gone: str,
    expired: int,
    kind: int,
) -> None:
    await keep_reads(stage)
    connection = await superuser(stage, server)
    try:
        await connection.execute(f"DELETE FROM reads WHERE tenant_id = $1 AND {gone}", stage.tenant)
    finally:
        await connection.close()
    problem = (await checked_reads(stage, stage.tenant)).problem
    assert problem.kind == audit_pb2.AUDIT_PROBLEM_KIND_ROW_MISSING
    # As if the rows had been kept for long enough.
    later = SimpleNamespace(db=stage.db, settings=stage.settings.model_copy(update={"reads_days": -1.0}))
    check = await checked_reads(later, stage.tenant)
    assert (check.expired_rows, check.problem.kind) == (expired, kind)
