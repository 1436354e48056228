"""Far above what it can carry, the platform carries what it can, turns the rest away at once, and recovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import httpx2
import psutil
import pytest

from deploy.local import control
from deploy.local.parts import KINDS
from tests.reliability.conftest import Report
from tests.reliability.driver import Plan, Shots, at_once, drive, quantile_ms
from tests.reliability.workload import everyday, expensive
from tests.running import Running

Scale = Callable[[int, int], int]

# Capacity is the highest rate at which 99 of 100 answers take no longer than this, and 999 of 1,000 are good.
_CALM_MS = 250.0
_CALM_ERRORS = 0.001
_GOODPUT = 0.8
_REJECTED_MS = 20.0
_RECOVERED_S = 5.0
_TURNED_AWAY = 429


@dataclass
class Load:
    """The platform with a measured capacity, in requests a second."""

    plan: Plan
    capacity: float
    p99_ms: float

    def at(self, *phases: tuple[float, float]) -> Plan:
        """The plan with these multiples of the capacity, each for so many seconds."""
        return replace(self.plan, phases=[(multiple * self.capacity, length_s) for multiple, length_s in phases])


@pytest.fixture(scope="module")
def load(platform: Running, request: pytest.FixtureRequest) -> Load:
    if not request.config.getoption("--long"):
        pytest.skip("takes minutes: make check-long LINE=20")
    return measured(platform)


def measured(platform: Running) -> Load:
    """Finds the capacity: from what a burst suggests downwards, until a rate is carried calmly."""
    kinds = everyday(platform.tenant("Everyday load"))
    plan = Plan(platform.env["RAPPORT_URL"], platform.env["RAPPORT_GATEWAY_ADDRESS"], kinds, [], seed=20)
    rate = 1.2 * at_once(plan)
    while rate > 1:
        shots = drive(replace(plan, phases=[(rate, 8)])).between(2, 8)
        p99_ms = quantile_ms((shot.took_s for shot in shots.shots), 0.99)
        if p99_ms <= _CALM_MS and len(shots.failed()) <= _CALM_ERRORS * len(shots.shots):
            return Load(plan, rate, p99_ms)
        rate *= 0.85
        time.sleep(1)
    raise AssertionError("the platform carries no rate calmly")


@pytest.mark.line(20)
def test_at_ten_times_the_capacity_most_of_it_is_still_delivered(load: Load, platform: Running, report: Report) -> None:
    before_s, peak_s, after_s = 5.0, 60.0, 15.0
    with _watched(platform) as watched:
        shots = drive(load.at((0.5, before_s), (10, peak_s), (0.5, after_s)))
    end_s = before_s + peak_s
    peak, calm = shots.between(before_s + 2, end_s), shots.between(1, before_s)
    goodput = len(peak.good()) / (peak_s - 2) / load.capacity
    rejected = [shot for shot in peak.shots if shot.status == _TURNED_AWAY]
    reject_ms = quantile_ms((shot.answer_s for shot in rejected), 0.99)
    recovery_s = _recovery_s(shots, end_s, after_s, calm)
    report(
        goodput >= _GOODPUT and reject_ms <= _REJECTED_MS and all(shot.hinted for shot in rejected)
        and recovery_s <= _RECOVERED_S and not watched.red and watched.growth() <= 1.2,
        capacity=round(load.capacity), p99_ms=load.p99_ms, goodput_of_capacity=round(goodput, 2),
        rejected=len(rejected), reject_p50_ms=quantile_ms((shot.answer_s for shot in rejected), 0.5),
        reject_p99_ms=reject_ms, without_hint=sum(not shot.hinted for shot in rejected),
        accepted_p50_ms=quantile_ms((shot.took_s for shot in peak.good()), 0.5),
        accepted_p99_ms=quantile_ms((shot.took_s for shot in peak.good()), 0.99),
        recovery_s=recovery_s, probes=watched.probes, probes_red=len(watched.red), memory=round(watched.growth(), 2),
        driver_late_p99_ms=quantile_ms((shot.late_s for shot in peak.shots), 0.99), statuses=peak.by_status(),
    )  # fmt: skip


@pytest.mark.line(20)
def test_clients_that_ask_again_at_once_do_not_bring_it_down(load: Load, report: Report) -> None:
    length_s = 30.0
    storm = replace(load.at((0.5, 3), (2, length_s)), attempts=4, pause_s=0.0)
    peak = drive(storm).between(5, 3 + length_s)
    goodput = len(peak.good()) / (length_s - 2) / load.capacity
    report(
        goodput >= _GOODPUT, capacity=round(load.capacity), goodput_of_capacity=round(goodput, 2),
        attempts=sum(shot.attempts for shot in peak.shots), statuses=peak.by_status(),
    )  # fmt: skip


@pytest.mark.line(20)
def test_expensive_queries_leave_cheap_reads_quick(load: Load, platform: Running, report: Report) -> None:
    """A fifth of the calls are pages of a thousand and searches inside texts; reads stay within twice their time."""
    costly = expensive(platform.tenant("Expensive queries"))
    cheap = [kind for kind in load.plan.kinds if kind.verb == "GET" and not kind.id_field]
    total, names = sum(kind.weight for kind in cheap), [kind.name for kind in cheap]
    mixed = [*cheap, *(replace(kind, weight=kind.weight * total / 4) for kind in costly)]
    alone = drive(replace(load.at((0.3, 20)), kinds=cheap)).between(2, 20).of(*names)
    beside = drive(replace(load.at((0.3 * 1.25, 20)), kinds=mixed)).between(2, 20)
    before_ms, after_ms = (
        quantile_ms((shot.took_s for shot in each.of(*names).shots), 0.99) for each in (alone, beside)
    )
    report(
        after_ms <= 2 * before_ms and not beside.of(*names).failed(), capacity=round(load.capacity),
        cheap_p99_alone_ms=before_ms, cheap_p99_ms=after_ms, ratio=round(after_ms / before_ms, 2),
        statuses=beside.by_status(),
    )  # fmt: skip


def _recovery_s(shots: Shots, end_s: float, after_s: float, calm: Shots) -> float:
    """Seconds after the peak until the p99 of a second is as usual: twice the calm one's, or 50 ms if that is less."""
    usual_ms = max(50.0, 2 * quantile_ms((shot.took_s for shot in calm.shots), 0.99))
    for second in range(int(after_s)):
        each = shots.between(end_s + second, end_s + second + 1)
        if not each.failed() and quantile_ms((shot.took_s for shot in each.shots), 0.99) <= usual_ms:
            return float(second)
    return float("inf")


@dataclass
class _Watched:
    """What the probes said meanwhile, and the memory of each process (bytes) before and at most."""

    probes: int = 0
    red: list[str] = field(default_factory=list)
    before: dict[int, int] = field(default_factory=dict)
    most: dict[int, int] = field(default_factory=dict)

    def growth(self) -> float:
        """The largest memory of all processes together, in terms of the one before."""
        return sum(self.most.values()) / sum(self.before.values())


@contextmanager
def _watched(platform: Running) -> Iterator[_Watched]:
    entries = {name: entry for kind in KINDS for name, entry in control.matching(platform.state, kind).items()}
    watched, over = _Watched(), threading.Event()
    processes = [psutil.Process(entry["pid"]) for entry in entries.values()]
    watched.before = {process.pid: process.memory_info().rss for process in processes}
    watched.most = dict(watched.before)

    def watch() -> None:
        with httpx2.Client(timeout=5) as client:
            while not over.wait(1):
                for name, entry in entries.items():
                    for probe in ("livez", "readyz"):
                        watched.probes += 1
                        if problem := _probe(client, f"http://127.0.0.1:{entry['probe_port']}/{probe}"):
                            watched.red.append(f"{name} {probe}: {problem}")
                for process in processes:
                    watched.most[process.pid] = max(watched.most[process.pid], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield watched
    finally:
        over.set()
        thread.join()


def _probe(client: httpx2.Client, url: str) -> str:
    try:
        answer = client.get(url)
    except httpx2.HTTPError as error:
        return repr(error)
    return "" if answer.status_code == 200 else answer.text
