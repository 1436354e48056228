"""What a run measures and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """``only`` names rows; all where it is empty. ``seconds`` is the length of a round.

    ``people`` are those in the large tenant where that is not the usual number; ``soak_minutes`` asks for a soak alone.
    ``real_time``: the ways of events are measured with the platform before everything else on the machine.
    """

    full: bool = False
    only: frozenset[str] = frozenset()
    seconds: float = 1.0
    rounds: int = 3
    people: int = 0
    soak_minutes: float = 0
    real_time: bool = False

    def wants(self, row: str) -> bool:
        """Whether this row is asked for."""
        return not self.only or row in self.only

    def wants_any(self, *rows: str) -> bool:
        """Whether one of these rows is asked for."""
        return any(map(self.wants, rows))
