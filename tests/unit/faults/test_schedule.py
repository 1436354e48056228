"""A run's faults follow from its seed, and are spread so that each kind is seen and none hides another."""

from itertools import pairwise

from tests.faults.nemesis import AT_ONCE, FAULTS, schedule
from tests.faults.platform import Layout

LAYOUT = Layout("some", 2)
SHORT = [name for name, fault in FAULTS.items() if not fault.long_only]


def test_a_seed_makes_the_same_faults_again() -> None:
    assert schedule(LAYOUT, 7, 60) == schedule(LAYOUT, 7, 60)
    assert schedule(LAYOUT, 7, 60) != schedule(LAYOUT, 8, 60)


def test_a_minute_has_forty_faults_and_a_short_run_none_that_takes_minutes() -> None:
    for seed in range(20):
        strikes = schedule(LAYOUT, seed, 60)
        assert len(strikes) >= 40
        assert {strike.kind for strike in strikes} <= set(SHORT)
        assert all(strike.at_s + strike.lasts_s <= 60 for strike in strikes)


def test_every_kind_comes_once_before_any_comes_often() -> None:
    for seed in range(5):
        assert {strike.kind for strike in schedule(LAYOUT, seed, 120)} == set(SHORT)


def test_what_holds_at_once_is_bounded_and_a_group_has_one_at_a_time() -> None:
    for seed in range(20):
        strikes = schedule(LAYOUT, seed, 120)
        for strike in strikes:
            holding = [each for each in strikes if each.at_s <= strike.at_s < each.at_s + each.lasts_s]
            assert len(holding) <= AT_ONCE
        for group in {FAULTS[strike.kind].group for strike in strikes} - {""}:
            mine = [strike for strike in strikes if FAULTS[strike.kind].group == group]
            assert all(one.at_s + one.lasts_s < next_.at_s for one, next_ in pairwise(mine))


def test_a_fault_hits_what_there_is() -> None:
    parts = {*LAYOUT.processes(), "nats", "postgres"}
    for strike in schedule(LAYOUT, 3, 120):
        ends = set(strike.target.split(">"))
        assert ends <= parts | {"edges", "everything"} | set(LAYOUT.processes().values())
