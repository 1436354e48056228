"""Rate limits: a burst passes, then the rate holds, for each principal and for its tenant, and the headers tell."""

from __future__ import annotations

from uuid import UUID

import pytest

from chassis.context import Caller
from chassis.errors import Exhausted, Reason
from chassis.settings import Settings
from gateway import limits
from gateway.limits import BYTES_FOR_ONE, Limits

ANN = Caller(UUID(int=1), "user_ann", frozenset({"*"}))
BEN = Caller(UUID(int=1), "user_ben", frozenset({"*"}))
EVE = Caller(UUID(int=2), "user_eve", frozenset({"*"}))


class Clock:
    """Stands still between the test's steps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limits, "time", made)
    return made


@pytest.fixture
def buckets() -> Limits:
    return Limits(Settings.model_construct(rate_principal=10, burst_principal=20, rate_tenant=15, burst_tenant=30))


def _passed(buckets: Limits, caller: Caller, times: int, size: int = 0) -> int:
    """How many of so many requests in a row pass."""
    for done in range(times):
        try:
            buckets.spend(caller, size, {})
        except Exhausted:
            return done
    return times


def test_a_burst_passes_and_then_the_rate_holds(buckets: Limits, clock: Clock) -> None:
    assert _passed(buckets, ANN, 100) == 20
    clock.now += 0.5
    assert _passed(buckets, ANN, 100) == 5
    clock.now += 1_000
    assert _passed(buckets, ANN, 100) == 20


def test_a_tenants_principals_share_its_bucket_and_no_other_tenants(buckets: Limits, clock: Clock) -> None:
    assert _passed(buckets, ANN, 100) + _passed(buckets, BEN, 100) == 30
    assert _passed(buckets, EVE, 100) == 20


def test_a_large_body_costs_more_and_one_above_the_whole_bucket_still_passes_once(
    buckets: Limits, clock: Clock
) -> None:
    assert _passed(buckets, ANN, 100, size=4 * BYTES_FOR_ONE) == 4
    assert _passed(buckets, EVE, 100, size=100 * BYTES_FOR_ONE) == 1


def test_a_refusal_takes_nothing_and_says_when_to_come_again(buckets: Limits, clock: Clock) -> None:
    _passed(buckets, ANN, 20)
    told: dict[str, str] = {}
    with pytest.raises(Exhausted):
        buckets.spend(ANN, 0, told)
    with pytest.raises(Exhausted) as refused:
        buckets.spend(ANN, 0, told)
    assert refused.value.reason == Reason.REASON_RATE_LIMITED
    assert refused.value.retry_s == pytest.approx(0.1)
    assert refused.value.metadata == {"policy": "principal"}
    assert told == {"ratelimit-policy": '"principal";q=20;w=2, "tenant";q=30;w=2', "ratelimit": '"principal";r=0;t=2'}
    assert _passed(buckets, BEN, 100) == 10


def test_the_headers_tell_of_the_bucket_that_has_least(buckets: Limits, clock: Clock) -> None:
    told: dict[str, str] = {}
    buckets.spend(ANN, 0, told)
    assert told["ratelimit"] == '"principal";r=19;t=1'
    _passed(buckets, ANN, 19)
    buckets.spend(BEN, 0, told)
    assert told["ratelimit"] == '"tenant";r=9;t=2'
