"""How the lines of the reliability test plan are chosen, sized and reported.

Each test is marked ``line(n)``. In `make test` it runs in its short form, if it is not ``nightly``;
`make check-long LINE=n` runs one line at full length. Every line prints one line of figures, which also goes to
``reports/reliability.jsonl``.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.reliability.lines import where

_REPORT = Path(__file__).resolve().parents[2] / "reports" / "reliability.jsonl"


class Report(Protocol):
    """Reports a line's figures and whether they pass."""

    def __call__(self, passed: bool, **figures: Any) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run lines of the reliability test plan at full length")
    parser.addoption("--line", type=int, help="run this line of the reliability test plan alone")
    parser.addoption("--seed", type=int, help="the seed of a run to repeat")
    parser.addoption(
        "--minutes", type=float, default=math.inf, help="end a long line after this time; it says how far it came"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--line")
    kept, dropped = [], []
    for item in items:
        mark = item.get_closest_marker("line")
        if wanted is not None and (mark is None or mark.args[0] != wanted):
            dropped.append(item)
            continue
        if mark is not None and mark.kwargs.get("nightly") and not config.getoption("--long"):
            dropped.append(item)
            continue
        if config.getoption("--long"):
            item.add_marker(pytest.mark.timeout(4 * 3600))
        kept.append(item)
    if wanted is not None and not kept:
        raise pytest.UsageError(where(wanted))
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """``scale(short, long)``: how much of a thing this run does."""
    long = bool(request.config.getoption("--long"))
    return lambda short_run, long_run: long_run if long else short_run


@pytest.fixture
def time_left(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Whether ``--minutes`` are not over yet: a line that repeats itself may stop after any repetition."""
    end = time.monotonic() + 60 * float(request.config.getoption("--minutes"))
    return lambda: time.monotonic() < end


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run: ``--seed``, else a new one. It stands in the report."""
    given = request.config.getoption("--seed")
    return int(given) if given is not None else secrets.randbelow(2**31)


@pytest.fixture
def report(request: pytest.FixtureRequest, seed: int, capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a line's figures, keeps them, and fails the test where they do not pass."""
    mark = request.node.get_closest_marker("line")

    def write(passed: bool, **figures: Any) -> None:
        line = {"line": mark.args[0], "test": request.node.name, **figures, "seed": seed, "passed": passed}
        _REPORT.parent.mkdir(exist_ok=True)
        with _REPORT.open("a") as out:
            out.write(json.dumps(line | {"long": request.config.getoption("--long"), "time": time.time()}) + "\n")
        shown = " ".join(f"{name}={value}" for name, value in figures.items())
        with capsys.disabled():
            print(f"\nline {mark.args[0]} {request.node.name}: {shown} seed={seed} {'PASS' if passed else 'FAIL'}")
        assert passed, shown

    return write
