"""A tenant far above its share does not slow the others down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.reliability.conftest import Report
from tests.reliability.driver import Plan, at_once, drive, quantile_ms
from tests.reliability.workload import everyday
from tests.running import Running

_NORMAL = 9
# Of what the platform gets through, so that the normal ones together take not half.
_SHARE = 0.05
_TIMES = 10
_SLOWER = 1.5


@pytest.mark.line(21)
def test_nine_tenants_do_not_feel_a_tenth_at_ten_times_its_share(
    platform: Running, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    length_s = scale(0, 30)
    if not length_s:
        pytest.skip("measures times: make check-long LINE=21")
    normal = [kind for n in range(_NORMAL) for kind in everyday(platform.tenant(f"Normal {n}"), name="normal.")]
    # Kinds of one name are one kind to the driver; each tenant's are told apart here.
    normal = [replace(kind, name=f"{kind.name}{n}") for n, kind in enumerate(normal)]
    names = [kind.name for kind in normal]
    noisy = everyday(platform.tenant("Noisy"), name="noisy.", weight=_TIMES)
    plan = Plan(platform.env["RAPPORT_URL"], platform.env["RAPPORT_GATEWAY_ADDRESS"], normal, [], seed)
    share = _SHARE * at_once(plan)
    alone = drive(replace(plan, phases=[(share * _NORMAL, length_s)])).between(3, length_s)
    both = replace(plan, kinds=[*normal, *noisy], phases=[(share * (_NORMAL + _TIMES), length_s)])
    beside = drive(both).between(3, length_s)
    others = beside.of(*names)
    alone_ms, beside_ms = (quantile_ms((shot.took_s for shot in each.shots), 0.99) for each in (alone, others))
    report(
        beside_ms <= _SLOWER * alone_ms and not others.failed(),
        share=round(share, 1), alone_p99_ms=alone_ms, beside_p99_ms=beside_ms,
        ratio=round(beside_ms / alone_ms, 2), others=len(others.shots), others_failed=len(others.failed()),
        alone_failed=len(alone.failed()), noisy=beside.of(*(kind.name for kind in noisy)).by_status(),
    )  # fmt: skip
