"""One running platform for every test that needs one, on free ports, gone when the tests end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.local import control
from deploy.local.state import State
from tests.running import Running


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole platform, two of each process."""
    directory = tmp_path_factory.mktemp("platform")
    directory.chmod(0o700)
    state = State(directory / "state")
    try:
        settings = {"RAPPORT_TRUSTED_HOSTS": "localhost", "RAPPORT_SEAL_EVERY_S": "3"}
        yield Running(state, control.up(state.root, replicas=2, env=settings))
    finally:
        control.reset(state)
