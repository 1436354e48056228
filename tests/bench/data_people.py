"""Invented people, firms and their business, skewed like life. Every value follows from seed, kind and number alone.

So any part can be made again by itself, in any process, and ten million people take no memory.
"""

from __future__ import annotations

import datetime as dt
import math
import random
from dataclasses import dataclass
from functools import cache, cached_property
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
BLOCK: Final = 2_500
_MASK: Final = (1 << 64) - 1
_MADE_BEFORE_MS: Final = 1_600_000_000_000


@dataclass(frozen=True)
class Size:
    """How much is invented: ``blocks`` of ``each`` records of every main kind, and ``people_blocks`` of people.

    The first block is the old customers', to whom much of what happens in the others belongs. The second is made one
    by one as well; the rest are copies of it under ids of their own (tests/bench/data_clone.py).
    """

    each: int
    blocks: int
    people_blocks: int

    @classmethod
    def of(cls, rows: int, people: int | None = None) -> Size:
        """The size of a tenant with ``rows`` of each main kind, rounded up to whole blocks."""
        blocks = max(2, math.ceil(rows / min(BLOCK, max(100, rows // 10))))
        each = math.ceil(rows / blocks)
        return cls(each, blocks, max(blocks, math.ceil((people or rows) / each)))

    @property
    def people(self) -> int:
        """How many people."""
        return self.each * self.people_blocks

    @property
    def rows(self) -> int:
        """How many of each other main kind."""
        return self.each * self.blocks

    @property
    def owners(self) -> int:
        """How many users own records."""
        return min(200, max(5, math.isqrt(self.rows)))

    @property
    def campaigns(self) -> int:
        """How many campaigns, all of them in the first block."""
        return min(self.each, max(20, math.isqrt(self.rows)))


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
    """One block of a tenant's people and business as of a moment.

    Records are numbered within the block; -1, -2 … are those of the first block.
    """

    def __init__(self, tenant: UUID, size: Size, now: dt.datetime, block: int = 0) -> None:
        self.tenant = tenant
        self.size = size
        self.now = now
        self.block = block
        self._seed = (tenant.int ^ min(block, 1) << 32) & _MASK
        self._span_s = YEARS * 365.25 * 86_400
        # The hour before `now`, in which all the records were made.
        self._start_ms = int(now.timestamp() * 1000) - 3_600_000
        self._step_ms = 3_500_000 // size.people_blocks

    def at(self, block: int) -> World:
        """Another block of the same tenant."""
        return World(self.tenant, self.size, self.now, block)

    @cached_property
    def _first(self) -> World:
        return self.at(0)

    def _of(self, number: int) -> tuple[World, int]:
        """The block that a number belongs to, and the number there."""
        return (self, number) if number >= 0 else (self._first, -number - 1)

    @cached_property
    def time_bits(self) -> int:
        """What the ids of a block's records begin with, and nobody else's: the millisecond of a UUIDv7."""
        return self._start_ms + self.block * self._step_ms

    @cached_property
    def mark(self) -> str:
        """The same in a TypeID. What must be unique beyond the block holds it too."""
        return ids.encode("x", UUID(int=self.time_bits << 80))[2:12]

    @cached_property
    def hex_mark(self) -> str:
        """The same in a UUID's text."""
        return str(UUID(int=self.time_bits << 80))[:13]

    def made_at(self, number: int) -> dt.datetime:
        """When Rapport learned of a record."""
        moment = self._start_ms + self.block * self._step_ms + number
        return dt.datetime.fromtimestamp(moment / 1000, dt.UTC)

    def chance(self, kind: str, number: int) -> random.Random:
        """The dice of one record."""
        return random.Random(shuffled(self._seed ^ _hash_of(kind) ^ 1, number))

    def _part(self, what: str, number: int) -> float:
        """One throw of the dice, in [0, 1)."""
        world, number = self._of(number)
        return shuffled(world._seed ^ _hash_of(what), number) / (_MASK + 1)

    def uuid(self, kind: str, number: int) -> UUID:
        """The id of the record of that number: a UUIDv7 (RFC 9562), in the order of blocks and numbers."""
        world, number = self._of(number)
        bits = shuffled(world._seed ^ _hash_of(kind), number) & (1 << 42) - 1
        kind_bits = _hash_of(kind) % 4093
        return UUID(int=world.time_bits << 80 | 7 << 76 | kind_bits << 64 | 2 << 62 | number << 42 | bits)

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
        world, within = self._of(number)
        return f"{self.firm(number).split()[0].lower()}-{within}-{world.mark}.example"

    def employer(self, person: int) -> int:
        """The company a person works for: few hold many."""
        world, number = self._of(person)
        found = world.somebody(world._part("employer", number), 10, 0.3)
        return found if world is self or found < 0 else -found - 1

    def customer(self, chance: random.Random) -> int:
        """A person with whom something happens, or a deal about which: few have very much."""
        return self.somebody(chance.random(), 5, 0.2)

    def somebody(self, u: float, flat: float, old: float) -> int:
        """A record of a kind by a uniform ``u``; with the probability ``old`` one of the first block."""
        if u < old:
            return -zipf(u / old, self.size.each, flat) - 1
        return zipf((u - old) / (1 - old), self.size.each, 50)

    def owner(self, chance: random.Random) -> str:
        """Whose record it is; some have many."""
        user = UUID(
            int=_MADE_BEFORE_MS << 80 | 7 << 76 | 2 << 62 | shuffled(0, zipf(chance.random(), self.size.owners, 3)) >> 2
        )
        return ids.encode("user", user)

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
