"""Invented people, firms and their business, skewed like life. Every value follows from seed, kind and number alone.

So any part can be made again by itself, in any process, and ten million people take no memory.
"""

from __future__ import annotations

import datetime as dt
import math
import random
from dataclasses import dataclass
from functools import cache
from typing import Final
from uuid import UUID

from chassis import ids


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


_GIVEN: Final = words_of(
    "Maria Ana João José Antonio Francisco Carlos Paulo Pedro Lucas Luiz Marcos Julia Fernanda Camila Elena Sofia Emma"
    " Olivia Noah Liam James Grace Wei Li Yuki Haruto Aarav Priya Fatima Omar Leila Lars Ingrid Björn Zoë Chloé Luca"
    " Giulia Marta Piotr Anna Katarzyna Ivan Olga Dmitri Elif Mehmet Ngozi Kwame Amina Thabo Naledi Lerato Aoife"
)
_FAMILY: Final = words_of(
    "Silva Santos Oliveira Souza Pereira Costa Rodrigues Almeida Nascimento Lima Smith Jones Müller Schmidt García"
    " Martínez Rossi Ferrari Nowak Kowalska Ivanov Petrova Wang Zhang Tanaka Suzuki Kim Park Singh Patel Khan Ali"
    " Hassan Yılmaz Okafor Mensah Dlamini Nkosi Johansson Andersen Jensen Virtanen Murphy O'Brien Dubois Laurent"
    " Peeters Janssen Novák Horváth Popescu Papadopoulos Cohen Levi Nguyen Tran Reyes Cruz Torres Ramos"
)
_FIRM: Final = words_of(
    "North Blue Iron Silver Green Alpha Vertex Harbour Summit River Atlas Cedar Nova Orion Delta Pine"
)
_TRADE: Final = words_of("Foods Metals Software Logistics Textiles Energy Health Paper Tools Media Farms Optics")
_ASCII: Final = str.maketrans("ãçéêíöøüøñóıłáúâôë' ", "aceeioouonoilauaoe--")

SOURCES: Final = ("web", "referral", "event", "partner", "cold_call", "paid_search", "social", "newsletter")
SOURCE_WEIGHTS: Final = (34, 18, 8, 9, 12, 10, 6, 3)
# How often a converted lead's deal is won, by the lead's source.
WIN_RATES: Final = (0.30, 0.52, 0.35, 0.41, 0.12, 0.24, 0.16, 0.33)
CURRENCIES: Final = ("EUR", "USD", "BRL", "GBP")
CURRENCY_WEIGHTS: Final = (55, 25, 15, 5)
YEARS: Final = 3
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True)
class Size:
    """How many there are of each kind."""

    people: int
    companies: int
    deals: int
    leads: int
    activities: int
    touches: int
    products: int
    campaigns: int
    owners: int

    @classmethod
    def of(cls, rows: int, people: int | None = None) -> Size:
        """The size of a tenant with ``rows`` of each main kind."""
        few = max(20, math.isqrt(rows))
        return cls(people or rows, rows, rows, rows, rows, max(1, rows // 4), max(10, rows // 20), few, min(few, 200))


def shuffled(seed: int, number: int) -> int:
    """64 bits that look random (SplitMix64, Steele et al. 2014)."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return z ^ z >> 31


def zipf(u: float, count: int, flat: float) -> int:
    """A rank below ``count`` with a probability in proportion to 1 / (rank + flat); ``u`` is uniform in [0, 1)."""
    return min(count - 1, int(flat * ((count + flat) / flat) ** u - flat))


def _of(words: tuple[str, ...], u: float) -> str:
    return words[zipf(u, len(words), 6)]


class World:
    """One tenant's people and business as of a moment."""

    def __init__(self, tenant: UUID, size: Size, now: dt.datetime) -> None:
        self.tenant = tenant
        self.size = size
        self.now = now
        self._seed = tenant.int & _MASK
        self._first_ms = int(now.timestamp() * 1000) - 3_600_000
        self._span_s = YEARS * 365.25 * 86_400

    def chance(self, kind: str, number: int) -> random.Random:
        """The dice of one record."""
        return random.Random(shuffled(self._seed ^ _hash_of(kind) ^ 1, number))

    def _part(self, what: str, number: int) -> float:
        """One throw of the dice, in [0, 1)."""
        return shuffled(self._seed ^ _hash_of(what), number) / (_MASK + 1)

    def uuid(self, kind: str, number: int) -> UUID:
        """The id of the record of that number: a UUIDv7 (RFC 9562) of the hour before ``now``, in the order of numbers.

        Twelve million a kind at most.
        """
        step = number * 3 // 10
        within = number - step * 10 // 3
        bits = shuffled(self._seed ^ _hash_of(kind), number)
        return UUID(int=self._first_ms + step << 80 | 7 << 76 | within << 64 | 2 << 62 | bits >> 2)

    def id(self, kind: str, number: int) -> str:
        """The same as a TypeID; ``kind`` is the prefix."""
        return ids.encode(kind, self.uuid(kind, number))

    def person(self, number: int) -> tuple[str, str]:
        """Given and family name. Names repeat."""
        return _of(_GIVEN, self._part("given", number)), _of(_FAMILY, self._part("family", number))

    def firm(self, number: int) -> str:
        """A company's name."""
        words = ((_FIRM, "first"), (_TRADE, "trade"), (_FAMILY, "founder"))
        return " ".join(_of(several, self._part(what, number)) for several, what in words)

    def domain(self, number: int) -> str:
        """A company's domain; its own."""
        return f"{self.firm(number).split()[0].lower()}-{number}.example"

    def employer(self, person: int) -> int:
        """The company a person works for: few hold many."""
        return zipf(self._part("employer", person), self.size.companies, 10)

    def customer(self, chance: random.Random) -> int:
        """A person with whom something happens: few have very much."""
        return zipf(chance.random(), self.size.people, 50)

    def owner(self, chance: random.Random) -> str:
        """Whose record it is; some have many."""
        return self.id("user", zipf(chance.random(), self.size.owners, 3))

    def past(self, chance: random.Random) -> dt.datetime:
        """A time in the last years, the likelier the nearer."""
        return self.now - dt.timedelta(seconds=int(self._span_s * chance.random() ** 3) + 60)

    def later(self, time: dt.datetime, chance: random.Random, days: float) -> dt.datetime:
        """A time after another, typically by so many days, and not in the future."""
        return min(time + dt.timedelta(days=days * chance.lognormvariate(0, 0.8)), self.now).replace(microsecond=0)


@cache
def _hash_of(kind: str) -> int:
    """A number for a kind, the same in every process."""
    return int.from_bytes(kind.encode()[:8].ljust(8, b"\0"), "big")


def ascii_of(name: str) -> str:
    """A name as it stands in an e-mail address."""
    return "".join(each for each in name.lower().translate(_ASCII) if each.isascii())
