"""What a tenant's clients know of its records: what was acknowledged, and what may be asked for next."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.client import Client, Rest

# So many records of a kind are kept in mind, and so many companies are made: they are listed to the end often.
RECENT: Final = 400
COMPANIES: Final = 150
INDUSTRIES: Final = ("mining", "retail", "software")
# Companies that leads come from; their conversions meet in them.
DOMAINS: Final = 12


@dataclass(frozen=True)
class Answered:
    """A write that was answered, to be asked for once more."""

    number: int
    kind: str
    digest: str
    path: str = ""
    request: bytes = b""
    rest: Rest | None = None


@dataclass
class Tenant:
    """One tenant. ``canary`` stands in every record that its clients write, and in no other's."""

    number: int
    client: Client
    canary: str
    # Open stages of its pipeline.
    stages: list[str] = field(default_factory=list)
    # The highest revision that was acknowledged, by record.
    acknowledged: dict[str, int] = field(default_factory=dict)
    recent: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=RECENT)))
    # The few records that everybody writes to.
    hot: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    companies: list[str] = field(default_factory=list)
    open_leads: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    open_deals: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    answered: deque[Answered] = field(default_factory=lambda: deque(maxlen=RECENT))

    def saw(self, record: str, revision: int) -> None:
        """Takes note of a revision that was acknowledged."""
        if revision > self.acknowledged.get(record, 0):
            self.acknowledged[record] = revision

    def made(self, kind: str, record: str) -> None:
        """Takes note of a new record."""
        self.recent[kind].append(record)
        if kind == "company":
            self.companies.append(record)
        elif kind == "lead":
            self.open_leads.append(record)
        elif kind == "deal":
            self.open_deals.append(record)

    def some(self, kind: str, rng: random.Random) -> str:
        """A record of this kind: often one of the hot ones, else one of the newest."""
        hot, recent = self.hot[kind], self.recent[kind]
        if hot and (not recent or rng.random() < 0.5):
            return rng.choice(hot)
        return rng.choice(recent) if recent else ""


def id_and_revision(record: Any) -> tuple[str, int]:
    """Of a message or of its JSON."""
    if isinstance(record, dict):
        return record["id"], int(record["etag"].strip('"'))
    return record.id, int(record.etag.strip('"'))
