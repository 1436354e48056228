"""The records that the requests are about: invented people, companies and deals of one tenant."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.stack import Stack
from tests.running import Client

PEOPLE, COMPANIES, DEALS = 10_000, 1_000, 5_000
_BATCH = 1_000
GIVEN = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Hedy", "John", "Katherine", "Margaret", "Radia")
FAMILY = ("Adler", "Berger", "Castillo", "Dubois", "Eriksen", "Ferrari", "Garcia", "Hansen", "Jensen", "Moreau")
SOURCES = ("event", "referral", "web", "import")


@dataclass(frozen=True)
class Records:
    """What is there, by id, in a tenant; ``client`` is its administrator."""

    client: Client
    people: Sequence[str]
    deals: Sequence[str]
    stages: Sequence[str]


def fill(stack: Stack, people: int = PEOPLE, companies: int = COMPANIES, deals: int = DEALS) -> Records:
    """A new tenant of the platform with so many records."""
    client = stack.tenant("Bench")
    pipeline = client.get("/v1/pipelines")["pipelines"][0]
    stages = [stage["id"] for stage in pipeline["stages"] if stage["kind"] == "STAGE_KIND_OPEN"]
    made = _create(client, "companies", "company", companies, _company)
    return Records(
        client,
        _create(client, "contacts", "contact", people, person),
        _create(client, "deals", "deal", deals, lambda n: _deal(n, made, stages)),
        stages,
    )


def person(number: int) -> dict[str, Any]:
    """An invented person; the number makes the address unique."""
    given, family = random.choice(GIVEN), random.choice(FAMILY)
    return {
        "given_name": given,
        "family_name": family,
        "emails": [{"address": f"{given}.{family}.{number}@example.com".lower()}],
        "job_title": random.choice(("Buyer", "Engineer", "Head of operations", "Owner")),
        "source": random.choice(SOURCES),
    }


def _company(number: int) -> dict[str, Any]:
    return {"display_name": f"{random.choice(FAMILY)} {random.choice(('AG', 'Ltd', 'SA', 'Inc'))} {number}"}


def _deal(number: int, companies: Sequence[str], stages: Sequence[str]) -> dict[str, Any]:
    return {
        "display_name": f"{random.choice(FAMILY)}: {random.randint(2, 80)} seats {number}",
        "amount": {"currency_code": "EUR", "units": str(random.randint(500, 90_000))},
        "company_id": random.choice(companies),
        "stage_id": stages[0],
    }


def _create(client: Client, plural: str, name: str, count: int, make: Callable[[int], dict[str, Any]]) -> list[str]:
    """Makes so many through the API, a thousand a call. Returns their ids."""
    found: list[str] = []
    for numbers in _portions(count):
        requests = [{name: make(number)} for number in numbers]
        answer = client.post(f"/v1/{plural}:batchCreate", {"requests": requests, "atomic": True})
        found += [result[name]["id"] for result in answer["results"]]
    return found


def _portions(count: int) -> Iterator[range]:
    for start in range(0, count, _BATCH):
        yield range(start, min(start + _BATCH, count))
