"""A relay in a process of its own, so that a test can stop it as a whole."""

import asyncio

from chassis.db import Database
from chassis.events import Relay
from chassis.settings import Settings
from tests.integration.events.stage import SCHEMA


async def main() -> None:
    settings = Settings()  # type: ignore[call-arg]
    await Relay(Database(settings, SCHEMA), settings).run()


if __name__ == "__main__":
    asyncio.run(main())
