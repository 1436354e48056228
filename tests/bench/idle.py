"""How long the platform takes to come up, and what it holds in memory when nothing happens and after load."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.goals import Row, Value, at_most
from tests.bench.measure import pss_mb, quiet
from tests.bench.settings import Settings
from tests.bench.stack import Stack

ROWS = ("up", "idle memory", "loaded memory")
_LIMIT_MB, _UP_S = 700, 10


def run(settings: Settings, one: Stack) -> Iterator[Row]:
    """Starts a fresh platform again, warm, and looks at its memory before anything is asked of it."""
    if settings.wants("up"):
        took_s = one.restart()
        beside = {"cold s": round(one.cold_up_s, 1)}
        yield at_most("up, warm", Value(took_s, took_s, took_s), "s", _UP_S, beside=beside)
    if settings.wants("idle memory"):
        quiet(one.whole)
        yield _memory("memory, idle", one)


def after_load(settings: Settings, one: Stack) -> Iterator[Row]:
    """Its memory after the requests."""
    if settings.wants("loaded memory"):
        quiet(one.whole)
        yield _memory("memory after load", one)


def _memory(name: str, one: Stack) -> Row:
    """All processes together, and each kind beside."""
    each = {part: pss_mb(pids) for part, pids in one.parts().items() if part != "supervisor"}
    total = pss_mb(one.whole)
    return at_most(
        name, Value(total, total, total), "MB", _LIMIT_MB, note="proportional set size of all processes", beside=each
    )
