"""A transaction that its caller gives up: the caller hears why, and nothing of it stays."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.integration.events.stage import Stage


async def test_whoever_gives_up_a_statement_hears_of_the_time_and_of_nothing_else(stage: Stage) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), stage.db.write(uuid4()) as tx:
            await tx.execute(text("SELECT pg_sleep(3)"))


async def test_the_connection_of_a_statement_that_was_given_up_is_not_used_again(stage: Stage) -> None:
    for _ in range(stage.settings.pool_size + 1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), stage.db.write(uuid4()) as tx:
                await tx.execute(text("SELECT pg_sleep(3)"))
    async with stage.db.write(uuid4()) as tx:
        assert (await tx.rows(text("SELECT 1 AS one")))[0].one == 1
