"""Our statistics against scipy and statsmodels, and at the edges where formulas break."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from services.marketing.statistics import (
    Interval,
    benjamini_hochberg,
    fisher_exact,
    two_proportion_z,
    wilson,
)

# (successes, trials, rest's successes, rest's trials)
Table = tuple[int, int, int, int]
COUNTS = [(0, 1), (1, 1), (0, 50), (50, 50), (1, 2), (3, 65), (75, 1350), (842, 8000), (1, 10**9), (10**9, 10**9)]
TABLES: list[Table] = [
    (75, 1350, 767, 6650),
    (3, 65, 839, 7935),
    (1, 1, 0, 1),
    (0, 1, 0, 1),
    (0, 12, 5, 9),
    (12, 12, 3, 9),
    (2, 4, 8, 16),
    # Two tables that are equally likely but for rounding.
    (1, 6, 9, 11),
    (2, 7, 10, 14),
    (1, 9, 11, 3000),
    (4, 2000, 0, 3),
    (0, 40, 12, 10**7),
    (3, 40, 12, 10**7),
    (500_000, 5_000_000, 501_500, 5_000_000),
    (10**8, 10**9, 10**8 + 30_000, 10**9),
]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), COUNTS)
def test_wilson_agrees_with_statsmodels(successes: int, trials: int, confidence: float) -> None:
    interval = wilson(successes, trials, confidence)
    low, high = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_wilson_without_trials_knows_nothing() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)


@given(st.integers(0, 10**9).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_holds_the_rate_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    successes, trials = counts
    interval = wilson(successes, trials)
    assert 0 <= interval.low <= interval.high <= 1
    if trials:
        assert interval.low <= successes / trials <= interval.high


@pytest.mark.parametrize("table", TABLES)
def test_two_proportion_z_agrees_with_statsmodels(table: Table) -> None:
    a, n, b, m = table
    if a + b in (0, n + m):
        assert two_proportion_z(*table) == 1.0  # statsmodels divides by zero
        return
    _, expected = proportions_ztest([a, b], [n, m])
    assert two_proportion_z(*table) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def _fisher_tables() -> Iterator[Table]:
    yield from (table for table in TABLES if table[1] + table[3] < 10**7)
    chance = random.Random(7)
    for _ in range(300):
        n, m = chance.randint(0, 40), chance.randint(0, chance.choice((3, 40, 5000)))
        yield chance.randint(0, n), n, chance.randint(0, min(m, 60)), m


def test_fisher_exact_agrees_with_scipy() -> None:
    for a, n, b, m in _fisher_tables():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of empty rows
            expected = stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue
        assert fisher_exact(a, n, b, m) == pytest.approx(expected, rel=1e-7, abs=1e-250), (a, n, b, m)


def test_fisher_exact_of_huge_counts() -> None:
    # Twelve of ten million: that one of them is among the forty has about the chance of 12 × 40 in ten million.
    assert fisher_exact(0, 40, 12, 10**7) == 1.0
    assert fisher_exact(1, 40, 11, 10**7) == pytest.approx(12 * 40 / 10**7, rel=1e-4)
    assert 0 <= fisher_exact(0, 10**6, 10**5, 10**6) < 1e-300


def test_fisher_exact_counts_tables_that_are_equally_likely() -> None:
    # 2 of 4 against 2 of 4: one likelier table, then pairs of equally likely ones on both sides.
    assert fisher_exact(1, 4, 3, 4) == pytest.approx((16 + 16 + 1 + 1) / 70)
    assert fisher_exact(0, 4, 4, 4) == pytest.approx(2 / 70)


small = st.integers(0, 60).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@settings(max_examples=200)
@given(small, small)
def test_both_tests_are_symmetric_and_give_probabilities(group: tuple[int, int], rest: tuple[int, int]) -> None:
    for test in (fisher_exact, two_proportion_z):
        p = test(*group, *rest)
        assert 0 <= p <= 1
        assert test(*rest, *group) == pytest.approx(p, rel=1e-9)
        failures = [(trials - successes, trials) for successes, trials in (group, rest)]
        assert test(*failures[0], *failures[1]) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("test", [fisher_exact, two_proportion_z])
def test_where_nothing_can_differ_nothing_does(test: Callable[..., float]) -> None:
    for table in [(0, 0, 3, 9), (3, 9, 0, 0), (0, 0, 0, 0), (0, 5, 0, 9), (5, 5, 9, 9)]:
        assert test(*table) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_benjamini_hochberg_agrees_with_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert benjamini_hochberg(p_values) == pytest.approx(list(expected), rel=1e-9, abs=1e-300)


def test_benjamini_hochberg_of_none_one_and_equal_values() -> None:
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([0.04]) == [0.04]
    assert benjamini_hochberg([0.04, 0.04, 0.04]) == [0.04, 0.04, 0.04]


@pytest.mark.parametrize(("successes", "trials"), [(2, 1), (-1, 5), (0, -1)])
def test_counts_that_cannot_be_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        wilson(successes, trials)
    with pytest.raises(ValueError, match="cannot be"):
        two_proportion_z(1, 2, successes, trials)
    with pytest.raises(ValueError, match="cannot be"):
        fisher_exact(successes, trials, 1, 2)


def test_a_p_value_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg([0.5, 1.5])
