"""The records that the requests are about: a tenant filled with invented ones, and new people to create."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench import data
from tests.bench.data_people import SOURCES
from tests.bench.stack import Stack
from tests.running import Client

# As in the table of what a buyer can run today, or more: there are as many companies as deals.
PEOPLE, ROWS = 10_000, 5_000
_GIVEN = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Hedy", "John", "Katherine", "Margaret", "Radia")
_FAMILY = ("Adler", "Berger", "Castillo", "Dubois", "Eriksen", "Garcia", "Hansen", "Jensen", "Lindqvist", "Moreau")


@dataclass(frozen=True)
class Records:
    """Some of what is there, by id, in a tenant of ``size`` people and ``rows`` of each other kind.

    ``client`` is its administrator; ``names`` are people's; ``deals`` are open and each is in one of ``stages``, the
    open ones of their pipeline.
    """

    client: Client
    size: int
    rows: int
    people: Sequence[str]
    names: Sequence[str]
    deals: Sequence[tuple[str, str]]
    stages: Sequence[str]
    busiest: str


def fill(stack: Stack, rows: int = ROWS, people: int | None = PEOPLE) -> Records:
    """A new tenant of the platform with so many people, and so many records of each other kind."""
    filled = data.fill(stack.env, rows, people=people)
    client = stack.running.client(filled.api_key, filled.tenant)
    contacts = filled.samples["contact"]
    names = (client.get(f"/v1/contacts/{each}")["display_name"] for each in random.sample(contacts, 40))
    stages = client.get(f"/v1/pipelines/{filled.pipeline}")["stages"]
    return Records(
        client,
        people or rows,
        rows,
        contacts,
        sorted(set(names)),
        list(_open_deals(client)),
        [stage["id"] for stage in stages if stage["kind"] == "STAGE_KIND_OPEN"],
        filled.busiest,
    )


def _open_deals(client: Client, most: int = 3_000) -> Iterator[tuple[str, str]]:
    """Ids and stages of open deals."""
    token = ""
    for _ in range(most // 1_000):
        page = client.get("/v1/deals", page_size=1_000, filter="state = 'OPEN'", page_token=token)
        yield from ((deal["id"], deal["stage_id"]) for deal in page["deals"])
        if not (token := page.get("next_page_token", "")):
            return


def person(number: int) -> dict[str, Any]:
    """A new person; the number makes the address unique."""
    given, family = random.choice(_GIVEN), random.choice(_FAMILY)
    return {
        "given_name": given,
        "family_name": family,
        "emails": [{"address": f"{given}.{family}.{number}@example.com".lower()}],
        "job_title": random.choice(("Buyer", "Engineer", "Head of operations", "Owner")),
        "source": random.choice(SOURCES),
    }
