from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chassis.ledger import Ledger
from chassis.search.service import Search
from chassis.service import Platform, Server
from deploy.local import postgres
from services.marketing.__main__ import application
from tests.integration.marketing import stage


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marketing")


@pytest.fixture(scope="session")
def marketing_platform(directory: Path) -> Iterator[Platform]:
    server = postgres.start(directory / "postgres")
    try:
        yield stage.platform(server, directory)
    finally:
        server.stop()


@pytest.fixture(scope="session")
async def server(marketing_platform: Platform) -> AsyncIterator[Server]:
    yield Server(marketing_platform, [*application.services, Ledger, Search])
    await marketing_platform.db.close()


@pytest.fixture
def marketing(marketing_platform: Platform, server: Server) -> stage.Marketing:
    """The service as a tenant of its own sees it."""
    return stage.Marketing(marketing_platform, server)
