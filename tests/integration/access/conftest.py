"""A tenant of the running platform for the tests of what callers may see."""

from __future__ import annotations

import pytest

from tests.contract.world import World
from tests.integration.access.restricted import House
from tests.running import Running


@pytest.fixture(scope="package")
def house(platform: Running) -> House:
    """A tenant with a user, somebody of its team, and a stranger."""
    return House(platform, World(platform.tenant("Access"), "Access"))
