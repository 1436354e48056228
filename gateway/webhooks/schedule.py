"""When a delivery that failed is tried again, and for how long an endpoint rests that fails."""

from __future__ import annotations

import datetime as dt
import random
from typing import Final

# Delays after the first, second … failed attempt of one delivery: together a day.
DELAYS_S: Final = (5, 30, 120, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 36_000)
GIVE_UP: Final = dt.timedelta(days=1)
# An endpoint rests after so many failures in a row, whichever deliveries they were of, and no longer than this.
REST_AFTER: Final = 3
_LONGEST_REST_S: Final = 3_600
_JITTER: Final = 0.2
# One that has taken nothing for so long is disabled.
DISABLE_AFTER: Final = dt.timedelta(days=5)


def next_attempt(attempts: int, begin: dt.datetime, now: dt.datetime) -> dt.datetime | None:
    """When to try a delivery again that has failed so often; None where it is given up."""
    if attempts > len(DELAYS_S) or now - begin >= GIVE_UP:
        return None
    return now + _about(DELAYS_S[attempts - 1])


def rest(failures: int) -> dt.timedelta:
    """How long an endpoint rests after so many failures in a row."""
    if failures < REST_AFTER:
        return dt.timedelta()
    return _about(min(DELAYS_S[min(failures - REST_AFTER, len(DELAYS_S) - 1)], _LONGEST_REST_S))


def _about(seconds: float) -> dt.timedelta:
    """So that what failed together does not come again together."""
    return dt.timedelta(seconds=seconds * random.uniform(1 - _JITTER, 1 + _JITTER))
