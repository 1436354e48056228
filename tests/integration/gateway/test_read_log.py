"""The log of reads keeps its numbers without gaps, outlasts a database that is away, and loses only what is too old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from chassis import context, entries, ids
from chassis.context import Call, Caller
from chassis.contract import load
from chassis.db import Database
from chassis.errors import Denied, Reason
from chassis.settings import Settings
from gateway.audit.entries import _log_for
from gateway.audit.reads import ReadLog
from gateway.audit.sweep import sweep_once
from gateway.identity.tables import schema
from tests.running import Client, Running

GET = load().methods["/crm.contacts.v1.ContactService/GetContact"]
DAY_S = 24 * 3600


def settings(dsn: str, worker: str) -> Any:
    return Settings.model_construct(
        database_url=SecretStr(dsn), worker_database_url=SecretStr(worker), pool_size=4, read_log_days=400
    )


@pytest.fixture
async def db(platform: Running) -> AsyncIterator[Database]:
    made = Database(
        settings(platform.env["RAPPORT_GATEWAY_DATABASE_URL"], platform.env["RAPPORT_GATEWAY_WORKER_DATABASE_URL"]),
        schema,
    )
    yield made
    await made.close()


@pytest.fixture
def client(platform: Running) -> Client:
    return platform.tenant("Read log")


def note(log: ReadLog, tenant: UUID, count: int = 1) -> list[str]:
    """Has the log note so many reads; their request ids."""
    caller = Caller(tenant, "user_somebody", frozenset())
    noted = [ids.new_uuid().hex for _ in range(count)]
    for each in noted:
        log.answered(GET, GET.request(id=ids.new("contact")).SerializeToString(), b"", caller, each)
    return noted


def rows(platform: Running, tenant: UUID) -> list[dict[str, Any]]:
    """The tenant's log in order, and that its numbers have no gap."""
    found = platform.rows("gateway", tenant, "SELECT * FROM audit_reads ORDER BY position")
    if found:
        first = found[0]["position"]
        assert [row["position"] for row in found] == list(range(first, first + len(found)))
    return found


async def kept(platform: Running, tenant: UUID) -> list[dict[str, Any]]:
    return await asyncio.to_thread(rows, platform, tenant)


async def test_processes_that_write_at_once_leave_no_gap(platform: Running, client: Client, db: Database) -> None:
    logs = [ReadLog(db) for _ in range(3)]
    noted: list[str] = []
    for _ in range(5):
        for log in logs:
            noted += note(log, client.tenant, 40)
        await asyncio.gather(*(log.flush() for log in logs))
    found = await kept(platform, client.tenant)
    assert sorted(row["request_id"] for row in found) == sorted(noted)
    assert found[0]["position"] == 1


async def test_notes_wait_for_a_database_that_is_away_and_come_once(
    platform: Running, client: Client, db: Database
) -> None:
    nowhere = platform.env["RAPPORT_GATEWAY_DATABASE_URL"].rpartition("@")[0] + "@127.0.0.1:9/gateway"
    away = Database(settings(nowhere, nowhere), schema)
    log = ReadLog(away)
    noted = note(log, client.tenant, 3)
    await log.flush()
    noted += note(log, client.tenant)
    await log.flush()
    assert not await kept(platform, client.tenant)
    await away.close()
    log._db = db
    await log.flush()
    # As where the answer to the commit was lost: it is tried again.
    log._batches.append(batch := SimpleNamespace(tenant=client.tenant, rows=[], tried=True))  # type: ignore[arg-type]
    found = await kept(platform, client.tenant)
    batch.rows = [{"time": found[0]["time"].isoformat(), "id": str(found[0]["id"])}]
    log._waiting += 1
    await log.flush()
    found = await kept(platform, client.tenant)
    assert [row["request_id"] for row in found] == noted
    assert (log.lost, log._waiting) == (0, 0)


async def test_too_many_notes_are_counted_as_lost_and_nobody_waits(
    platform: Running, client: Client, db: Database
) -> None:
    log = ReadLog(db)
    log._waiting = 49_999
    noted = note(log, client.tenant, 3)
    assert log.lost == 2
    log._waiting = 1
    await log.close()
    assert [row["request_id"] for row in await kept(platform, client.tenant)] == noted[:1]


async def test_what_the_text_of_a_call_holds_is_kept_whatever_it_is(
    platform: Running, client: Client, db: Database
) -> None:
    log = ReadLog(db)
    search = load().methods["/crm.gateway.v1.SearchService/Search"]
    caller = Caller(client.tenant, "user_somebody", frozenset())
    asked = ["\x00\u2028'\"\\{}", "n" * 5_000, "naïve 😀"]
    for text in asked:
        log.answered(search, search.request(query=text).SerializeToString(), b"\xff", caller, "1")
    log.failed(GET, b"\xff\x00", Denied(Reason.REASON_PERMISSION_DENIED, "no"), caller, "2")
    log.failed(GET, b"\x0a\x02\xff\x00", Denied(Reason.REASON_PERMISSION_DENIED, "no"), caller, "3")
    await log.flush()
    found = await kept(platform, client.tenant)
    assert [row["query"] for row in found[:3]] == [f"query: {text}".replace("\x00", "")[:500] for text in asked]
    assert [row["outcome"] for row in found[3:]] == ["PERMISSION_DENIED"] * 2
    assert log.lost == 0


async def test_reads_are_kept_for_400_days_and_the_oldest_go_first(
    platform: Running, client: Client, db: Database
) -> None:
    log = ReadLog(db)
    # The last but one is old too, but stands behind one that is not.
    for age in (500, 401, 399, 402, 0):
        note(log, client.tenant)
        log._notes[-1] = log._notes[-1]._replace(at=time.monotonic() - age * DAY_S)
        await log.flush()
    stage: Any = SimpleNamespace(db=db, settings=SimpleNamespace(read_log_days=400))
    await sweep_once(stage)
    assert [row["position"] for row in await kept(platform, client.tenant)] == [3, 4, 5]
    note(log, client.tenant)
    await log.flush()
    assert (await kept(platform, client.tenant))[-1]["position"] == 6


@pytest.mark.parametrize("whole_s", [0, 0.001, 30])
async def test_a_filter_that_no_index_serves_finds_all_in_pieces(
    client: Client, db: Database, monkeypatch: pytest.MonkeyPatch, whole_s: float
) -> None:
    log = ReadLog(db)
    noted = note(log, client.tenant, 50)
    await log.flush()
    monkeypatch.setattr(entries, "_WHOLE_S", whole_s)
    monkeypatch.setattr(entries, "_STRIDE", 7)
    entries._statement.cache_clear()
    caller = Caller(client.tenant, "user_somebody", frozenset())
    wanted = noted[::10]
    filter = " OR ".join(f'request_id = "{each}"' for each in wanted)
    found: list[str] = []
    places: list[entries.Place] = []
    with context.enter(Call(caller, "", time.monotonic() + 20)):
        ended = False
        while not ended:
            asked = entries.Asked(filter, 3, places[-1] if places else None)
            rows, reached, ended = await entries.find(db, _log_for(caller), asked)
            found += [row.request_id for row in rows]
            places += [reached] if reached is not None else []
    entries._statement.cache_clear()
    # All are of one moment, or nearly: the numbers tell them apart.
    assert sorted(found) == sorted(wanted)
    assert places == sorted(set(places), reverse=True)
    assert len(places) > 5 or whole_s
