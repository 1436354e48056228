"""The demo tenant of a laptop: made at the first start, with the API key that the set-up wrote to a file."""

from __future__ import annotations

import asyncio
from uuid import UUID

from crm.gateway.v1 import api_key_pb2
from sqlalchemy import bindparam, select

from chassis import telemetry
from chassis.db import Database
from chassis.errors import Unavailable
from gateway.identity import keys, tenants
from gateway.identity.tables import credentials

# Fixed, so that two gateway processes that start at once make one tenant.
DEMO_TENANT = UUID("0190a0a0-0000-7000-8000-000000000001")
_AGAIN_S = 0.5
_SCOPES = ["*", "platform.*"]
_HELD = select(credentials.c.digest).where(credentials.c.digest == bindparam("digest"))

log = telemetry.logger()


async def bootstrap(db: Database, secret: str) -> None:
    """Makes the demo tenant and lets this key in, where that has not happened yet; waits for an absent database."""
    if not secret.startswith(keys.LEAD):
        raise ValueError(f"the bootstrap API key must begin with '{keys.LEAD}'")
    while True:
        try:
            return await _let_in(db, secret)
        except Unavailable as error:
            log.warning("the demo tenant waits for the database", exc_info=error)
            await asyncio.sleep(_AGAIN_S)


async def _let_in(db: Database, secret: str) -> None:
    if await _is_held(db, secret):
        return
    key = keys.NewKey(secret, keys.prefix_of(secret))
    first = api_key_pb2.ApiKey(display_name="Demo", scopes=_SCOPES)
    try:
        await tenants.found(db, DEMO_TENANT, "Demo", first, key)
    except Exception as error:
        # Another gateway process of this laptop was faster.
        if not await _is_held(db, secret):
            raise
        log.info("the demo tenant was made meanwhile", exc_info=error)
        return
    log.info("made the demo tenant")


async def _is_held(db: Database, secret: str) -> bool:
    async with db.read(DEMO_TENANT) as tx:
        return bool(await tx.rows(_HELD, {"digest": keys.digest(secret)}))
