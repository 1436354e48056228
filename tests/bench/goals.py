"""What is promised, row by row, and whether a measurement keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One line of the result. ``met`` is None where there is nothing to compare; ``beside`` are further figures.

    ``value`` and ``floor`` share ``unit``; the goal bounds their ratio, or the value where there is no floor.
    """

    name: str
    value: float | None
    unit: str
    goal: str
    met: bool | None
    floor: float | None = None
    spread: tuple[float, float] | None = None
    floor_spread: tuple[float, float] | None = None
    note: str = ""
    beside: Mapping[str, float | str] = field(default_factory=dict)
    failed: bool = False

    @property
    def ratio(self) -> float | None:
        """The value by its floor."""
        return self.value / self.floor if self.value is not None and self.floor else None


@dataclass(frozen=True)
class Value:
    """A median with the least and the most of its rounds."""

    median: float
    least: float
    most: float

    @property
    def spread(self) -> tuple[float, float]:
        """Least and most."""
        return self.least, self.most


def at_most(
    name: str, value: Value, unit: str, limit: float, *, note: str = "", beside: Mapping[str, float | str] | None = None
) -> Row:
    """A row whose value has a limit of its own."""
    met = value.median <= limit
    return Row(
        name, value.median, unit, f"≤ {limit:g} {unit}", met, spread=value.spread, note=note, beside=beside or {}
    )


def within(
    name: str,
    value: Value,
    unit: str,
    floor: Value,
    times: float,
    *,
    note: str = "",
    beside: Mapping[str, float | str] | None = None,
) -> Row:
    """A row that may be so many times its floor."""
    return Row(
        name,
        value.median,
        unit,
        f"≤ {times:.3g} × floor",
        value.median <= times * floor.median,
        floor.median,
        value.spread,
        floor.spread,
        note,
        beside or {},
    )


def reaching(name: str, value: Value, unit: str, floor: Value, share: float, *, note: str = "") -> Row:
    """A row that must be at least this share of its floor, for rates."""
    met = value.median >= share * floor.median
    goal = f"≥ {share:.2f} × floor"
    return Row(name, value.median, unit, goal, met, floor.median, value.spread, floor.spread, note)


def not_measured(name: str, why: str, *, failed: bool = False) -> Row:
    """A row without a figure: something is missing that need not be there, or, ``failed``, something went wrong."""
    return Row(name, None, "", "", None, note=f"not measured: {why}", failed=failed)


def information(name: str, value: Value, unit: str, note: str = "") -> Row:
    """A figure to compare with that has no goal."""
    return Row(name, value.median, unit, "", None, spread=value.spread, note=note)
