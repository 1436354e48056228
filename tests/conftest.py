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
        yield Running(state, control.up(state.root, replicas=2))
    finally:
        control.reset(state)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two workers: all that needs the running platform stays in one, so that one is started; the rest by file."""
    for item in items:
        on_platform = "platform" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("platform" if on_platform else str(item.path)))
