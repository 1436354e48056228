"""A rolling restart of everything fails no request of a client that follows docs/api.md."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle

import pytest

from deploy.local import control
from deploy.local.parts import KINDS
from tests.reliability.conftest import Report
from tests.reliability.driver import Drive, Plan, Shots, at_once, quantile_ms
from tests.reliability.workload import everyday
from tests.running import Running

# What a call may take by default, and how often a client may try within it.
_DEADLINE_S = 10.0
_ATTEMPTS = 3
_BASELINE_S = 5.0
_LEISURE = 5
# deploy/k8s/base/serving.yaml says ten; a client here tries to connect twice a second.
_MIN_READY_S = 1.0


@pytest.mark.line(10)
def test_a_rolling_restart_fails_no_request(
    platform: Running, scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    restarts, requests = scale(8, 50), scale(0, 200_000)
    plan = Plan(
        platform.env["RAPPORT_URL"],
        platform.env["RAPPORT_GATEWAY_ADDRESS"],
        everyday(platform.tenant("Restarted under load")),
        [],
        seed,
        attempts=_ATTEMPTS,
        deadline_s=_DEADLINE_S,
    )
    # Starting processes takes most of a small machine; what is to fail here is not the machine.
    rate = min(500.0, at_once(plan) / _LEISURE)
    done = 0
    with Drive(replace(plan, phases=[(rate, 3600)])) as load:
        time.sleep(_BASELINE_S)
        began = time.monotonic()
        for part in _parts(platform):
            control.restart(platform.state, part, min_ready_s=_MIN_READY_S)
            done += 1
            if done >= restarts and ((time.monotonic() - began) * rate >= requests or not time_left()):
                break
        load.stop()
        shots = load.result()
    _tell(shots, done, rate, report)


def _parts(platform: Running) -> Iterator[str]:
    """Every replica of every kind, one after the other, again and again."""
    return cycle(name for kind in KINDS for name in control.matching(platform.state, kind))


def _tell(shots: Shots, restarts: int, rate: float, report: Report) -> None:
    before = shots.between(1.0, _BASELINE_S)
    during = shots.between(_BASELINE_S, float("inf"))
    failed = shots.failed()
    report(
        not failed,
        requests=len(shots.shots),
        rate=round(rate),
        restarts=restarts,
        failed=len(failed),
        how=dict(Counter(f"{shot.kind}:{shot.status}" for shot in failed)),
        tried_again=sum(shot.attempts > 1 for shot in shots.shots),
        p999_ms=quantile_ms((shot.took_s for shot in during.shots), 0.999),
        before_p999_ms=quantile_ms((shot.took_s for shot in before.shots), 0.999),
        p50_ms=quantile_ms((shot.took_s for shot in during.shots), 0.5),
    )
