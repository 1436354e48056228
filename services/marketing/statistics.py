"""The statistics of the funnel: intervals for rates, and whether two rates differ beyond chance.

Pure functions on counts. A count of successes is called ``successes``, of those who could succeed ``trials``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import NormalDist
from typing import Final

# Tables are equally likely where their probabilities differ by no more than rounding does; the same as in R.
_TIE: Final = 1 + 1e-7


@dataclass(frozen=True)
class Interval:
    """A range of fractions, both ends in it."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Interval for a proportion that stays honest for small samples and rates near 0 or 1.

    Returns fractions in [0, 1]; (0, 1) when there were no trials.
    Raises ValueError when successes exceed trials or either is negative.
    Source: E. B. Wilson, JASA 22 (1927), 209–212; agrees with statsmodels proportion_confint(method="wilson").
    """
    _check(successes, trials)
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    reach = z / shrink * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At the ends the formula gives exactly 0 and 1; rounding does not.
    low = 0.0 if successes == 0 else max(0.0, centre - reach)
    high = 1.0 if successes == trials else min(1.0, centre + reach)
    return Interval(low, high)


def two_proportion_z(successes: int, trials: int, rest_successes: int, rest_trials: int) -> float:
    """How likely two proportions differ this much by chance: the two-sided z-test with pooled variance.

    An approximation for large counts: with fewer than five expected successes use `fisher_exact`.
    Returns a p-value in [0, 1]; 1 where nothing can differ: no trials on one side, none or all successful.
    Raises ValueError when successes exceed trials or either is negative.
    Source: J. L. Fleiss, Statistical Methods for Rates and Proportions, chapter 2, without the correction for
    continuity; agrees with statsmodels proportions_ztest.
    """
    _check(successes, trials)
    _check(rest_successes, rest_trials)
    if trials == 0 or rest_trials == 0:
        return 1.0
    pooled = (successes + rest_successes) / (trials + rest_trials)
    variance = pooled * (1 - pooled) * (1 / trials + 1 / rest_trials)
    if variance <= 0:
        return 1.0
    z = (successes / trials - rest_successes / rest_trials) / sqrt(variance)
    return erfc(abs(z) / sqrt(2))


def fisher_exact(successes: int, trials: int, rest_successes: int, rest_trials: int) -> float:
    """How likely two proportions differ this much by chance, exactly, given both totals: Fisher's test, two-sided.

    It adds the probabilities of all tables that are no likelier than the one seen. Takes time in proportion to the
    smallest total. Returns a p-value in [0, 1]; 0 where it is too small for a float.
    Raises ValueError when successes exceed trials or either is negative.
    Source: R. A. Fisher, JRSS 98 (1935), 39–82; agrees with scipy.stats.fisher_exact and R's fisher.test.
    """
    _check(successes, trials)
    _check(rest_successes, rest_trials)
    weights = dict(_hypergeometric_weights(trials, rest_trials, successes + rest_successes))
    limit = weights.get(successes, 0.0) * _TIE
    return min(1.0, sum(weight for weight in weights.values() if weight <= limit) / sum(weights.values()))


def _hypergeometric_weights(trials: int, rest_trials: int, successes: int) -> Iterator[tuple[int, float]]:
    """How likely each count of successes among ``trials`` is, against the likeliest, when ``successes`` fall on all.

    Neighbours differ by a ratio of small whole numbers, so nothing cancels or overflows, as it would with factorials
    of large counts. Ends on each side where the weight is too small for a float.
    """
    likeliest = (trials + 1) * (successes + 1) // (trials + rest_trials + 2)
    yield likeliest, 1.0
    weight, count = 1.0, likeliest
    while weight > 0 and count < min(trials, successes):
        weight *= (trials - count) * (successes - count) / ((count + 1) * (rest_trials - successes + count + 1))
        count += 1
        yield count, weight
    weight, count = 1.0, likeliest
    while weight > 0 and count > max(0, successes - rest_trials):
        weight *= count * (rest_trials - successes + count) / ((trials - count + 1) * (successes - count + 1))
        count -= 1
        yield count, weight


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for having looked at all of them, in the order given.

    Calling those of at most 0.05 real makes at most one in twenty of the calls wrong, on average.
    Raises ValueError for a value outside [0, 1].
    Source: Y. Benjamini and Y. Hochberg, JRSS B 57 (1995), 289–300; agrees with statsmodels
    multipletests(method="fdr_bh").
    """
    if not all(0 <= each <= 1 for each in p_values):
        raise ValueError("a p-value lies between 0 and 1")
    adjusted = [1.0] * len(p_values)
    least = 1.0
    falling = sorted(range(len(p_values)), key=lambda index: p_values[index], reverse=True)
    for rank, index in zip(range(len(p_values), 0, -1), falling, strict=True):
        least = min(least, p_values[index] * len(p_values) / rank)
        adjusted[index] = least
    return adjusted


def _check(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials cannot be")
