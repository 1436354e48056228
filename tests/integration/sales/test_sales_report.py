"""The pipeline report's figures, against deals counted by hand."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from crm.sales.v1 import deal_pb2
from crm.sales.v1 import pipeline_report_pb2 as pb
from google.type.money_pb2 import Money

from chassis import ids
from chassis.errors import Invalid
from chassis.rows import timestamp
from tests.integration.sales.house import Tenant

MAY = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
ANA, BIA = sorted(ids.new("user") for _ in range(2))


def eur(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="EUR", units=units, nanos=nanos)


def item(
    amount: Money | None = None, *, owner: str = ANA, end: str = "", opened: dt.datetime = MAY, days: float = 0,
    probability: int | None = None,
) -> deal_pb2.UpsertDealRequest:  # fmt: skip
    deal = deal_pb2.Deal(display_name="Deal", amount=amount, owner_id=owner or None, probability=probability)
    made = deal_pb2.UpsertDealRequest(deal=deal, occur_time=timestamp(opened))
    if end:
        getattr(made.close, end).SetInParent()
        made.close.occur_time.CopyFrom(timestamp(opened + dt.timedelta(days=days)))
    return made


@pytest.fixture
async def year(sales: Tenant) -> Tenant:
    """Seven deals: three won, one of them before it was opened, one lost, three open."""
    deals = [
        item(eur(100), end="won", days=10),
        item(eur(200, 500_000_000), end="won", days=20, owner=BIA),
        item(eur(1), end="won", days=-2),
        item(eur(50), end="lost", days=40),
        item(eur(0, 10_000_000), probability=33),
        item(Money(currency_code="BRL", units=7), owner=""),
        item(opened=MAY - dt.timedelta(hours=1)),
    ]
    answer = await sales.call("DealService/BatchUpsertDeals", requests=deals, atomic=True)
    gone = await sales.call("DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Gone", amount=eur(9_999)))
    await sales.call("DealService/DeleteDeal", id=gone.id)
    assert len(answer.results) == 7
    return sales


async def report(sales: Tenant, **fields: Any) -> pb.PipelineReport:
    answer: pb.PipelineReport = await sales.call("PipelineReportService/GetPipelineReport", **fields)
    return answer


async def test_the_whole_pipeline_is_counted_and_summed_exactly_by_currency(year: Tenant) -> None:
    total = (await report(year)).total
    assert (total.deal_count, total.open_count, total.won_count, total.lost_count) == (7, 3, 3, 1)
    assert total.win_rate == 0.75
    assert total.median_cycle_time.ToTimedelta() == dt.timedelta(days=15)
    assert total.negative_cycle_count == 1
    assert list(total.amounts) == [
        pb.PipelineAmount(
            amount=Money(currency_code="BRL", units=7),
            weighted_amount=Money(currency_code="BRL", nanos=700_000_000),
            won_amount=Money(currency_code="BRL"),
        ),
        pb.PipelineAmount(
            amount=eur(351, 510_000_000), weighted_amount=eur(301, 503_300_000), won_amount=eur(301, 500_000_000)
        ),
    ]


async def test_stages_come_in_their_order_with_their_names(year: Tenant) -> None:
    groups = (await report(year)).groups
    assert [(group.stage_display_name, group.deal_count) for group in groups] == [
        ("Prospecting", 3), ("Won", 3), ("Lost", 1),
    ]  # fmt: skip
    assert not groups[0].HasField("win_rate")
    assert not groups[0].HasField("median_cycle_time")
    assert groups[1].win_rate == 1
    assert groups[1].amounts[0].won_amount == eur(301, 500_000_000)


async def test_owners_and_periods_are_groups_too_and_so_are_both_together(year: Tenant) -> None:
    by_owner = (await report(year, group_by=[pb.PIPELINE_GROUPING_OWNER])).groups
    assert [(group.owner_id, group.deal_count) for group in by_owner] == [("", 1), (ANA, 5), (BIA, 1)]
    by_month = (await report(year, group_by=[pb.PIPELINE_GROUPING_PERIOD])).groups
    assert [(group.period, group.deal_count) for group in by_month] == [("2026-04", 2), ("2026-05", 4), ("2026-06", 1)]
    both = (await report(year, group_by=[pb.PIPELINE_GROUPING_PERIOD, pb.PIPELINE_GROUPING_STAGE])).groups
    found = [(group.stage_display_name, group.period, group.deal_count) for group in both]
    assert found == [
        ("Prospecting", "2026-04", 1), ("Prospecting", "2026-05", 2), ("Won", "2026-04", 1), ("Won", "2026-05", 2),
        ("Lost", "2026-06", 1),
    ]  # fmt: skip


async def test_months_begin_where_the_caller_lives(year: Tenant) -> None:
    zone = {"group_by": [pb.PIPELINE_GROUPING_PERIOD], "time_zone": "America/Sao_Paulo"}
    groups = (await report(year, **zone)).groups
    assert [(group.period, group.deal_count) for group in groups] == [("2026-04", 4), ("2026-05", 2), ("2026-06", 1)]
    with pytest.raises(Invalid, match="time_zone"):
        await report(year, time_zone="Mars/Olympus")


async def test_a_report_can_be_of_one_owner_and_of_a_span(year: Tenant) -> None:
    assert (await report(year, owner_id=BIA)).total.deal_count == 1
    assert (await report(year, start_time=timestamp(MAY))).total.deal_count == 6
    assert (await report(year, end_time=timestamp(MAY))).total.deal_count == 1


async def test_a_tenant_without_deals_has_a_report_of_nothing(sales: Tenant) -> None:
    answer = await report(sales)
    assert answer.pipeline_id
    assert answer.total == pb.PipelineFigures()
    assert not answer.groups
