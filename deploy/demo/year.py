"""What happens in the year: who comes from where, who becomes a customer, and how long it takes."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, field

from deploy.demo.people import Firm, Person, firms, people

SEED = 20_250_301
LEADS = 640
COMPANIES = 130
# Of a hundred leads: how many come from there, how many of them are won, and how many days that takes.
SOURCES = {
    "organic_search": (28, 0.17, 18),
    "paid_search": (20, 0.16, 15),
    "social": (18, 0.05, 26),
    "referral": (12, 0.34, 9),
    "email": (12, 0.06, 30),
    "trade_fair": (10, 0.20, 35),
}
CAMPAIGNS = {
    "Spring catalogue": ("email", "CAMPAIGN_KIND_EMAIL"),
    "Search always on": ("paid_search", "CAMPAIGN_KIND_PAID_SEARCH"),
    "Stories": ("social", "CAMPAIGN_KIND_SOCIAL"),
    "Autumn fair": ("trade_fair", "CAMPAIGN_KIND_EVENT"),
}
PAGES = ("/start", "/pricing", "/guide", "/compare", "/webinar")
PRODUCTS = {
    "SEAT-1": ("Starter seat", 19, "Seats"),
    "SEAT-2": ("Team seat", 39, "Seats"),
    "SEAT-3": ("Business seat", 79, "Seats"),
    "ONB-1": ("Onboarding day", 900, "Services"),
    "TRN-1": ("Training", 450, "Services"),
    "SUP-1": ("Premium support", 1_200, "Services"),
}
SELLERS = ("Ines Duarte", "Jonas Weber", "Priya Banerjee", "Mateo Vargas", "Freja Dahl")
LOSSES = ("price", "no decision", "competitor", "timing")


@dataclass
class LeadStory:
    """A lead and what becomes of it. ``fate`` is open, disqualified, deal, won or lost."""

    key: str
    person: Person
    firm: Firm
    source: str
    page: str
    seller: str
    began: dt.datetime
    fate: str
    converted: dt.datetime
    ended: dt.datetime
    units: int
    sku: str
    stages: int
    touches: list[dt.datetime] = field(default_factory=list)


def begin(today: dt.date) -> dt.datetime:
    """The first day of the twelve months that end with the month before ``today``'s."""
    month = today.year * 12 + today.month - 1 - 12
    return dt.datetime(month // 12, month % 12 + 1, 1, tzinfo=dt.UTC)


def stories(start: dt.datetime, now: dt.datetime) -> tuple[list[Firm], list[LeadStory]]:
    """The year's companies and leads, the same ones for the same start."""
    chance = random.Random(SEED)
    companies = firms(COMPANIES, chance)
    persons = people(LEADS, [firm.domain for firm in companies], chance)
    names, weights = list(SOURCES), [each[0] for each in SOURCES.values()]
    told = []
    for index, person in enumerate(persons):
        source = chance.choices(names, weights)[0]
        # The business grows: more leads come late in the year than early.
        began = start + dt.timedelta(days=364 * chance.random() ** 0.8, seconds=chance.randrange(28_800, 64_800))
        told.append(_story(f"lead-{index:04}", person, companies[index % COMPANIES], source, began, now, chance))
    return companies, told


def _story(
    key: str, person: Person, firm: Firm, source: str, began: dt.datetime, now: dt.datetime, chance: random.Random
) -> LeadStory:
    _, rate, days = SOURCES[source]
    page = chance.choice(PAGES)
    seller = chance.choice(SELLERS)
    # The pricing page draws people who decide; one seller is better than the others.
    rate *= (1.4 if page == "/pricing" else 0.9) * (1.3 if seller == "Priya Banerjee" else 1.0)
    fate = chance.choices(
        ("won", "lost", "deal", "disqualified", "open"), (rate, 0.14, 0.08, 0.2, max(0.05, 0.58 - rate))
    )[0]
    converted = began + dt.timedelta(days=chance.expovariate(1 / (days * 0.4)) + 0.2)
    ended = converted + dt.timedelta(days=chance.expovariate(1 / (days * 0.6)) + 0.5)
    if ended >= now and fate in ("won", "lost"):
        fate = "deal"
    if converted >= now:
        fate = "open"
    return LeadStory(
        key, person, firm, source, page, seller, began, fate, converted, ended,
        units=chance.choice((3, 5, 8, 12, 20, 40)), sku=chance.choice(list(PRODUCTS)[:3]),
        stages=chance.randrange(0, 4),
        touches=[began - dt.timedelta(days=chance.uniform(0, 20)) for _ in range(chance.randrange(0, 4))],
    )  # fmt: skip
