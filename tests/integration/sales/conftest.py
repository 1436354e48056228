"""Sales and contacts, as long as their tests run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from chassis import migrate
from chassis.service import Server
from deploy.local import ports, postgres
from services.sales.__main__ import application as sales_application
from tests.integration.sales.house import APPLICATIONS, House, Tenant, contacts_running, make_keys, server_of


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Both databases, migrated, as long as the tests run."""
    directory = tmp_path_factory.mktemp("sales")
    server = postgres.start(directory / "pg")
    try:
        server.create_databases(["contacts", "sales"])
        make_keys(directory)
        made = House(server, directory, ports.free())
        for application in APPLICATIONS:
            migrate.upgrade(made.settings(application.name), application.schema, application.migrations)
        yield made
    finally:
        server.stop()


@pytest.fixture(scope="session")
async def sales_server(house: House) -> AsyncIterator[Server]:
    """The sales service."""
    server = server_of(sales_application, house.settings("sales"))
    yield server
    await server.platform.channels.close()
    await server.platform.db.close()


@pytest.fixture(scope="module")
async def contacts_server(house: House) -> AsyncIterator[Server]:
    """The contacts service, running for the tests of a module."""
    async with contacts_running(house) as server:
        yield server


@pytest.fixture
def sales(sales_server: Server) -> Tenant:
    """A fresh tenant in sales."""
    return Tenant(sales_server, uuid4())


@pytest.fixture
def other(sales_server: Server) -> Tenant:
    """Another fresh tenant in sales."""
    return Tenant(sales_server, uuid4())
