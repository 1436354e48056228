"""A sealer in a process of its own, so that a test can kill it."""

import asyncio

from chassis.audit import Sealer
from chassis.db import Database
from chassis.settings import Settings
from tests.integration.events.stage import SCHEMA


async def main() -> None:
    settings = Settings()  # type: ignore[call-arg]
    sealer = Sealer(Database(settings, SCHEMA), settings)
    while True:
        await asyncio.sleep(await sealer.turn())


if __name__ == "__main__":
    asyncio.run(main())
