"""Sums of money are exact: in JSON, in a message, in a row and in a report."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from google.type.money_pb2 import Money

from chassis.rows import amount, money
from gateway.transcode.reader import Reader
from gateway.transcode.writer import Writer
from tests.contract.world import World
from tests.reliability.conftest import Report
from tests.running import Running

_LARGEST = 10**18
_CURRENCIES = ("EUR", "JPY", "BHD", "CLF")
_EDGES = (0, 1, 9, 10, 99, 999_999_999, 500_000_000, 100_000_000, 1_000, 123_456_789)


def any_money(dice: random.Random, largest: int = _LARGEST) -> Money:
    """A sum that the contract allows, often one at an edge."""
    units = dice.choice((0, 1, largest, largest - 1, dice.randrange(largest), dice.randrange(1_000)))
    nanos = dice.choice((*_EDGES, dice.randrange(10**9)))
    sign = dice.choice((1, -1))
    return Money(currency_code=dice.choice(_CURRENCIES), units=sign * units, nanos=sign * nanos)


@pytest.mark.line(14, nightly=True)
def test_a_sum_survives_every_form_it_takes(
    scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    dice, reader, writer = random.Random(seed), Reader(), Writer()
    cases, different = 0, []
    while cases < scale(10_000, 1_000_000) and time_left():
        cases += 1
        given = any_money(dice)
        read = Money()
        reader.fill(read, writer.value(given))
        exact = Decimal(given.units).scaleb(9) + given.nanos
        value = amount(given)
        if read != given or value.scaleb(9) != exact or money(Decimal(str(value)), given.currency_code) != given:
            different.append(str(given))
    report(not different, cases=cases, differences=len(different), first=different[:3])


@pytest.mark.line(14, nightly=True)
def test_reports_add_up_to_the_last_digit(
    platform: Running, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    dice = random.Random(seed)
    world = World(platform.tenant("Money"), "Money")
    stages = world.any("pipeline")["stages"]
    expected: dict[str, Decimal] = {}
    deals = scale(200, 4_000)
    for begin in range(0, deals, 200):
        requests: list[dict[str, Any]] = []
        for _ in range(min(200, deals - begin)):
            given = any_money(dice, 10**14)
            given.units, given.nanos = abs(given.units), abs(given.nanos)
            expected[given.currency_code] = expected.get(given.currency_code, Decimal(0)) + amount(given)
            requests.append({"deal": _deal(world, dice.choice(stages[:2])["id"], Writer().value(given))})
        world.client.post("/v1/deals:batchCreate", {"requests": requests, "atomic": True})
    shown = world.client.get(
        "/v1/reports/pipeline", pipeline_id=world.id("pipeline"), group_by="PIPELINE_GROUPING_STAGE"
    )
    found = sums(shown)
    report(found == expected, deals=deals, currencies=len(expected), differences=found != expected)


def _deal(world: World, stage_id: str, given: Any) -> dict[str, Any]:
    return {"display_name": world.text(), "amount": given, "pipeline_id": world.id("pipeline"), "stage_id": stage_id}


def sums(shown: dict[str, Any]) -> dict[str, Decimal]:
    """The sum of each currency over all groups of a report."""
    found: dict[str, Decimal] = {}
    for group in shown["groups"]:
        for each in group["amounts"]:
            given = Money()
            Reader().fill(given, each["amount"])
            found[given.currency_code] = found.get(given.currency_code, Decimal(0)) + amount(given)
    return found


@pytest.mark.line(14)
def test_a_sum_that_no_money_can_hold_is_no_fault_of_ours(platform: Running, report: Report) -> None:
    """The largest amounts are allowed one by one; their sum is larger than google.type.Money."""
    world = World(platform.tenant("Billions"), "Billions")
    stage = world.any("pipeline")["stages"][0]["id"]
    statuses = []
    for _ in range(2):
        largest = {"currency_code": "EUR", "units": str(2**63 - 1), "nanos": 999_999_999}
        statuses.append(world.client.http.post("/v1/deals", json=_deal(world, stage, largest)).status_code)
    reply = world.client.http.get("/v1/reports/pipeline", params={"pipeline_id": world.id("pipeline")})
    report(reply.status_code < 500, created=statuses, report=reply.status_code, said=reply.text[:120])
