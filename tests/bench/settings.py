"""What a run measures and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """``only`` names rows; all where it is empty. ``seconds`` is the length of a round."""

    full: bool = False
    only: frozenset[str] = frozenset()
    seconds: float = 1.0
    rounds: int = 3
    people: int = 0

    def wants(self, row: str) -> bool:
        """Whether this row is asked for."""
        return not self.only or row in self.only
