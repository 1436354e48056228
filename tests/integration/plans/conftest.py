"""One filled database server for the tests of plans."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.plans.stage import Watched, filled_platform

# What a sequential scan or a sort of everything costs grows with the rows, what a page by an index costs does not: a
# plan that keeps away from the first at this size does so at every larger one. A million: RAPPORT_PLAN_ROWS=1000000.
ROWS = int(os.environ.get("RAPPORT_PLAN_ROWS", "5000"))


@pytest.fixture(scope="session", params=["auto", "force_generic_plan"])
async def watched(request: pytest.FixtureRequest, filled: Watched) -> AsyncIterator[Watched]:
    """The services, their statements planned for their parameters, and planned once for all parameters."""
    await filled.plan_as(request.param)
    yield filled
    await filled.close()


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The tenant."""
    made = filled_platform(tmp_path_factory.mktemp("plans"), ROWS)
    try:
        yield made
    finally:
        made.server.stop()
