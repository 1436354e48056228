import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chassis import telemetry
from deploy.local import nats, postgres
from tests.integration.events.stage import Broker, Stage, make_database, settings_for

NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True, scope="session")
def logs() -> None:
    """As a process has them; the default ones take seconds to draw a traceback."""
    telemetry.setup("probe", log_level="INFO")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    running = postgres.start(tmp_path_factory.mktemp("postgres"))
    yield running
    running.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path / "nats", nats.start(tmp_path / "nats"))
    yield running
    running.server.stop()


@pytest.fixture
async def stage(server: postgres.Postgres, broker: Broker) -> AsyncIterator[Stage]:
    """A service of its own: an empty ledger, no streams yet, nothing running."""
    name = f"probe_{next(NUMBERS)}"
    await make_database(server, name)
    running = Stage(settings_for(server, name, broker.server), broker)
    yield running
    await running.close()
