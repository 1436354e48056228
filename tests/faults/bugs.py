"""Planted bugs: what the harness must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Bug:
    """A defect that a test process can be given."""

    description: str
    plant: Callable[[], None]
    menu: tuple[str, ...] = ()
    workload: tuple[str, ...] = ()


BUGS: Final[dict[str, Bug]] = {}
