"""Whether every ledger is what was sealed, whatever was done to the sealers meanwhile, and sealed to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

from crm.internal.v1 import seal_pb2 as pb

from chassis.audit import check_logs
from chassis.db import Database, Schema
from chassis.errors import Failure
from chassis.settings import KINDS, Settings

# How often the platform's sealers work, and how long they may take once everything is well.
EVERY_S: Final = 2
_PATIENCE_S: Final = 30.0
_YET: Final = " yet"


async def check(env: Mapping[str, str], tenants: Iterable[UUID]) -> list[str]:
    """What is wrong with the seals of these tenants' ledgers."""
    found, end = [], time.monotonic() + _PATIENCE_S
    for service in KINDS:
        settings = Settings.model_validate(
            {
                "database_url": env[f"RAPPORT_{service.upper()}_DATABASE_URL"],
                "worker_database_url": env[f"RAPPORT_{service.upper()}_WORKER_DATABASE_URL"],
            }
            | dict.fromkeys(("signing_key_file", "trust_file", "token_key_file"), "/nonexistent")
        )
        db = Database(settings, Schema(service))
        try:
            kept = SimpleNamespace(db=db, settings=settings)
            found += [f"{service}: {wrong}" for tenant in tenants if (wrong := await _wrong(kept, tenant, end))]
        finally:
            await db.close()
    return found


async def _wrong(kept: Any, tenant: UUID, end: float) -> str:
    """What is wrong with the seals of a tenant's ledger; empty where nothing is."""
    while True:
        wrong = await _now_wrong(kept, tenant)
        if not wrong or not wrong.endswith(_YET) or time.monotonic() > end:
            return wrong
        await asyncio.sleep(0.5)


async def _now_wrong(kept: Any, tenant: UUID) -> str:
    checks: list[pb.SealCheck] = []
    try:
        while not checks or not checks[0].done:
            checks = await check_logs(kept, tenant, checks, [])
    except Failure as failure:
        return f"{failure.message}: nothing known{_YET}"
    if checks[0].HasField("problem"):
        return str(checks[0].problem.message)
    return f"{checks[0].unsealed_rows} rows not sealed{_YET}" if checks[0].unsealed_rows else ""
