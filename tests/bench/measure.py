"""What processes cost: CPU time and memory of process trees, and rounds that charge both to requests."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from tests.bench.load import Load, LoadFailed

# A tree is quiet when it spends less than this share of a processor.
_QUIET_SHARE = 0.07
_LOOK_S = 0.2
_SETTLE_S = 10.0


def tree(roots: Sequence[int]) -> list[psutil.Process]:
    """The processes with these ids and all their descendants that live now."""
    below: dict[int, list[psutil.Process]] = {}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["ppid"]):
        below.setdefault(process.info["ppid"] or 0, []).append(process)
        if process.pid in roots:
            found[process.pid] = process
    waiting = list(found)
    while waiting:
        for child in below.get(waiting.pop(), []):
            if child.pid not in found:
                found[child.pid] = child
                waiting.append(child.pid)
    return list(found.values())


def cpu_s(roots: Sequence[int]) -> float:
    """User and system seconds that the trees have used so far, children that ended included."""
    spent = 0.0
    for process in tree(roots):
        try:
            spent += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return spent


@contextlib.contextmanager
def ahead_of_others(roots: Sequence[int]) -> Iterator[None]:
    """Runs the trees and this process before everything else on the machine (real-time, round robin).

    Times then tell of the platform where others work too. Raises PermissionError for who may not do that.
    """
    _schedule(roots, os.SCHED_RR, 1)
    try:
        yield
    finally:
        _schedule(roots, os.SCHED_OTHER, 0)


def _schedule(roots: Sequence[int], policy: int, priority: int) -> None:
    for process in tree([*roots, os.getpid()]):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in process.threads():
                os.sched_setscheduler(thread.id, policy, os.sched_param(priority))


def pss_mb(roots: Sequence[int]) -> float:
    """Megabytes resident in the trees; what processes share is counted once (proportional set size)."""
    held = 0
    for process in tree(roots):
        try:
            held += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return held / 1e6


def rss_mb(roots: Sequence[int]) -> float:
    """Megabytes resident in the trees, shared pages counted in each process."""
    return sum(process.memory_info().rss for process in tree(roots) if process.is_running()) / 1e6


def quiet(roots: Sequence[int], limit_s: float = _SETTLE_S) -> None:
    """Waits until the trees are quiet, so that the last requests and their effects are not charged to others."""
    end, last = time.monotonic() + limit_s, cpu_s(roots)
    while time.monotonic() < end:
        time.sleep(_LOOK_S)
        now = cpu_s(roots)
        if now - last <= _QUIET_SHARE * _LOOK_S:
            return
        last = now


@dataclass(frozen=True)
class Case:
    """One thing to measure. ``charged`` names the process trees whose CPU time a request is charged with.

    ``settle`` lists the trees to wait for after the load, where a request has effects after its answer.
    """

    name: str
    drive: Callable[[float], Load]
    charged: Mapping[str, Sequence[int]]
    settle: Sequence[int] = ()


@dataclass
class Measured:
    """The rounds of a case: CPU in microseconds a request by process tree, and the loads as the client saw them.

    ``failure`` says what went wrong where requests failed: a figure of failures would be none.
    """

    name: str
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    failure: str = ""

    def median_us(self, group: str) -> float:
        """Median over the rounds, in microseconds of CPU a request."""
        return statistics.median(self.cpu_us[group])

    def spread_us(self, group: str) -> tuple[float, float]:
        """Least and most over the rounds."""
        return min(self.cpu_us[group]), max(self.cpu_us[group])


def interleaved(cases: Sequence[Case], rounds: int, seconds: float, warm_s: float = 0.5) -> dict[str, Measured]:
    """Measures the cases in turn, round by round, so that a slow minute of the machine hits all of them.

    A case whose requests fail is left out of the later rounds.
    """
    found = {case.name: Measured(case.name) for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            measured = found[case.name]
            if measured.failure:
                continue
            try:
                if number == 0:
                    case.drive(warm_s)
                    quiet(case.settle)
                else:
                    _round(case, measured, seconds)
            except LoadFailed as error:
                measured.failure = str(error)
    return found


def _round(case: Case, measured: Measured, seconds: float) -> None:
    before = {group: cpu_s(roots) for group, roots in case.charged.items()}
    load = case.drive(seconds)
    if case.settle:
        quiet(case.settle)
    measured.loads.append(load)
    for group, roots in case.charged.items():
        spent = cpu_s(roots) - before[group]
        measured.cpu_us.setdefault(group, []).append(spent * 1e6 / load.begun)
