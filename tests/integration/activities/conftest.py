from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chassis.ledger import Ledger
from chassis.search.service import Search
from chassis.service import Platform, Server
from deploy.local import nats, postgres
from services.activities.__main__ import application
from tests.integration.activities import stage


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("activities")


@pytest.fixture(scope="session")
def broker(directory: Path) -> Iterator[nats.Nats]:
    server = nats.start(directory / "nats")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def platform(directory: Path, broker: nats.Nats) -> Iterator[Platform]:
    server = postgres.start(directory / "postgres")
    try:
        yield stage.platform(server, broker, directory)
    finally:
        server.stop()


@pytest.fixture(scope="session")
async def server(platform: Platform) -> AsyncIterator[Server]:
    yield Server(platform, [*application.services, Ledger, Search])
    await platform.channels.close()
    await platform.db.close()


@pytest.fixture
def activities(platform: Platform, server: Server) -> stage.Activities:
    """The service as a tenant of its own sees it."""
    return stage.Activities(platform, server)
