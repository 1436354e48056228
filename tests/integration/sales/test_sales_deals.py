"""Pipelines, products and deals."""

from __future__ import annotations

import asyncio
import datetime as dt
from uuid import uuid4

import pytest
from crm.sales.v1 import deal_pb2, pipeline_pb2, product_pb2
from crm.type.v1.common_pb2 import ExternalId, Outcome
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from chassis.errors import AlreadyExists, Failure, Invalid, Precondition, Reason
from chassis.rows import timestamp
from tests.integration.sales.house import Tenant

MAY = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
JUNE = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
EUR_10 = Money(currency_code="EUR", units=10)


async def first_pipeline(sales: Tenant) -> pipeline_pb2.Pipeline:
    pipelines = (await sales.call("PipelineService/ListPipelines")).pipelines
    assert len(pipelines) == 1
    found: pipeline_pb2.Pipeline = pipelines[0]
    return found


async def new_deal(sales: Tenant, **fields: object) -> deal_pb2.Deal:
    deal = deal_pb2.Deal(display_name="Acme — 40 seats", **fields)  # type: ignore[arg-type]
    made: deal_pb2.Deal = await sales.call("DealService/CreateDeal", deal=deal, occur_time=timestamp(MAY))
    return made


async def test_a_tenant_has_a_pipeline_from_the_start_and_all_first_callers_get_the_same(sales: Tenant) -> None:
    deals = await asyncio.gather(*(new_deal(sales) for _ in range(5)))
    pipeline = await first_pipeline(sales)
    assert {deal.pipeline_id for deal in deals} == {pipeline.id}
    assert [(stage.display_name, stage.default_probability) for stage in pipeline.stages] == [
        ("Prospecting", 10), ("Qualification", 20), ("Proposal", 50), ("Negotiation", 80), ("Won", 100), ("Lost", 0),
    ]  # fmt: skip
    assert pipeline.default


async def test_a_deal_opens_in_the_first_stage_and_keeps_its_money_exactly(sales: Tenant) -> None:
    amount = Money(currency_code="BRL", units=10_005_534, nanos=120_000_001)
    deal = await new_deal(sales, amount=amount)
    pipeline = await first_pipeline(sales)
    again = await sales.call("DealService/GetDeal", id=deal.id)
    assert again == deal
    assert again.amount == amount
    assert again.state == deal_pb2.DEAL_STATE_OPEN
    assert again.stage_id == pipeline.stages[0].id
    assert again.open_time == timestamp(MAY)
    assert [stay.stage_id for stay in again.stage_history] == [pipeline.stages[0].id]


async def test_stage_history_tells_how_long_a_deal_stayed_where(sales: Tenant) -> None:
    deal = await new_deal(sales)
    stages = {stage.display_name: stage.id for stage in (await first_pipeline(sales)).stages}
    at = [timestamp(MAY + dt.timedelta(days=days)) for days in (2, 5, 6)]
    await sales.call("DealService/MoveDeal", id=deal.id, stage_id=stages["Proposal"], occur_time=at[0])
    won = await sales.call("DealService/WinDeal", id=deal.id, occur_time=at[1], amount=EUR_10)
    assert (won.state, won.stage_id, won.close_time) == (deal_pb2.DEAL_STATE_WON, stages["Won"], at[1])
    assert won.amount == EUR_10
    reopened = await sales.call("DealService/ReopenDeal", id=deal.id, occur_time=at[2])
    assert (reopened.state, reopened.stage_id) == (deal_pb2.DEAL_STATE_OPEN, stages["Proposal"])
    assert not reopened.HasField("close_time")
    lost = await sales.call("DealService/LoseDeal", id=deal.id, loss_reason="price", occur_time=at[2])
    assert lost.loss_reason == "price"
    stays = [(stay.stage_id, stay.duration.seconds // 86_400) for stay in lost.stage_history]
    assert stays == [
        (stages["Prospecting"], 2), (stages["Proposal"], 3), (stages["Won"], 1), (stages["Proposal"], 0),
        (stages["Lost"], 0),
    ]  # fmt: skip
    assert not lost.stage_history[-1].HasField("exit_time")
    verbs = [verb for verb, _ in await sales.ledger(deal.id)]
    assert verbs == ["created", "moved", "won", "reopened", "lost"]


@pytest.mark.parametrize(
    ("verb", "reason"),
    [("WinDeal", Reason.REASON_STATE_INVALID), ("LoseDeal", Reason.REASON_STATE_INVALID)],
)
async def test_only_an_open_deal_is_closed(sales: Tenant, verb: str, reason: int) -> None:
    deal = await new_deal(sales)
    await sales.call("DealService/WinDeal", id=deal.id)
    with pytest.raises(Precondition) as refused:
        await sales.call(f"DealService/{verb}", id=deal.id)
    assert refused.value.reason == reason


async def test_a_deal_moves_only_to_open_stages_of_its_own_pipeline_and_only_by_verbs(sales: Tenant) -> None:
    deal = await new_deal(sales)
    pipeline = await first_pipeline(sales)
    for stage_id in (pipeline.stages[4].id, "stage_01h455vb4pex5vsknk084sn02q", pipeline.stages[0].id):
        with pytest.raises(Failure) as refused:
            await sales.call("DealService/MoveDeal", id=deal.id, stage_id=stage_id)
        assert refused.value.reason == Reason.REASON_STAGE_INVALID
    for change in (
        deal_pb2.Deal(id=deal.id, stage_id=pipeline.stages[1].id),
        deal_pb2.Deal(id=deal.id, pipeline_id="pipeline_01h455vb4pex5vsknk084sn02q"),
    ):
        with pytest.raises(Invalid) as refused:
            await sales.call("DealService/UpdateDeal", deal=change)
        assert refused.value.reason == Reason.REASON_STAGE_INVALID


async def test_a_deal_is_made_and_closed_in_one_step_with_an_event_for_each(sales: Tenant) -> None:
    close = deal_pb2.DealClose(won=deal_pb2.DealWon(), occur_time=timestamp(MAY - dt.timedelta(days=2)))
    deal = await sales.call(
        "DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Past"), close=close, occur_time=timestamp(MAY)
    )
    assert deal.state == deal_pb2.DEAL_STATE_WON
    assert deal.stage_history[0].duration.seconds == -2 * 86_400
    assert await sales.ledger(deal.id) == [("created", 1), ("won", 2)]


async def test_an_import_of_closed_deals_can_be_repeated(sales: Tenant) -> None:
    stages = {stage.display_name: stage.id for stage in (await first_pipeline(sales)).stages}

    def batch() -> deal_pb2.BatchUpsertDealsRequest:
        request = deal_pb2.BatchUpsertDealsRequest()
        for number in range(60):
            item = request.requests.add(occur_time=timestamp(MAY))
            item.deal.display_name = f"Deal {number}"
            item.deal.external_ids.add(system="old", id=str(number))
            item.deal.stage_id = stages["Qualification"]
            item.deal.amount.CopyFrom(Money(currency_code="USD", units=number))
            if number % 3:
                item.close.occur_time.CopyFrom(timestamp(JUNE))
                item.close.won.SetInParent() if number % 3 == 1 else item.close.lost.SetInParent()
        return request

    first = await sales.call("DealService/BatchUpsertDeals", batch())
    assert {result.outcome for result in first.results} == {Outcome.OUTCOME_CREATED}
    second = await sales.call("DealService/BatchUpsertDeals", batch())
    assert {result.outcome for result in second.results} == {Outcome.OUTCOME_UNCHANGED}
    assert [result.deal for result in second.results] == [result.deal for result in first.results]
    assert await sales.ledger(first.results[1].deal.id) == [("created", 1), ("won", 2)]

    third = deal_pb2.BatchUpsertDealsRequest(requests=[batch().requests[number] for number in (0, 1)])
    for item in third.requests:
        item.close.lost.loss_reason = "price"
    changed = await sales.call("DealService/BatchUpsertDeals", third)
    assert changed.results[0].outcome == Outcome.OUTCOME_UPDATED
    assert changed.results[0].deal.state == deal_pb2.DEAL_STATE_LOST
    assert "must be open" in changed.results[1].status.message


async def test_the_same_deal_twice_in_a_batch_is_one_deal(sales: Tenant) -> None:
    request = deal_pb2.BatchUpsertDealsRequest()
    for number in range(3):
        item = request.requests.add()
        item.deal.display_name = f"Name {number}"
        item.deal.external_ids.add(system="old", id="same")
        if number == 1:
            item.close.won.SetInParent()
    answer = await sales.call("DealService/BatchUpsertDeals", request)
    assert len({result.deal.id for result in answer.results}) == 1
    last = await sales.call("DealService/GetDeal", id=answer.results[0].deal.id)
    assert (last.display_name, last.state) == ("Name 2", deal_pb2.DEAL_STATE_WON)
    assert await sales.ledger(last.id) == [("created", 1), ("updated", 2), ("won", 3), ("updated", 4)]


async def test_a_failed_item_leaves_nothing_for_a_later_one_of_the_same_deal(sales: Tenant) -> None:
    deal = await new_deal(sales, external_ids=[ExternalId(system="old", id="1")])
    await sales.call("DealService/WinDeal", id=deal.id)
    request = deal_pb2.BatchUpsertDealsRequest()
    for name in ("Refused", "Kept"):
        item = request.requests.add()
        item.deal.external_ids.add(system="old", id="1")
        if name == "Refused":
            item.deal.display_name = name
            item.close.lost.SetInParent()
        else:
            item.deal.description = name
    answer = await sales.call("DealService/BatchUpsertDeals", request)
    assert answer.results[0].HasField("status")
    assert answer.results[1].outcome == Outcome.OUTCOME_UPDATED
    kept = await sales.call("DealService/GetDeal", id=deal.id)
    assert (kept.display_name, kept.description) == ("Acme — 40 seats", "Kept")
    assert kept.etag == '"3"'


async def test_a_deal_has_one_currency_and_only_products_that_exist(sales: Tenant) -> None:
    product = await sales.call(
        "ProductService/CreateProduct", product=product_pb2.Product(display_name="Seat", sku="S-1", unit_price=EUR_10)
    )
    item = deal_pb2.LineItem(product_id=product.id, quantity=DecimalMessage(value="40"), unit_price=EUR_10)
    deal = await new_deal(sales, amount=EUR_10, line_items=[item])
    assert (await sales.call("DealService/GetDeal", id=deal.id)).line_items[0] == item
    with pytest.raises(Invalid, match=r"line_items\[0\].unit_price.currency_code: the deal is in USD"):
        await new_deal(sales, amount=Money(currency_code="USD", units=1), line_items=[item])
    with pytest.raises(Invalid, match="the deal is in USD"):
        await sales.call("DealService/WinDeal", id=deal.id, amount=Money(currency_code="USD", units=1))
    with pytest.raises(Invalid, match=r"line_items\[0\].product_id: there is no product"):
        await new_deal(sales, line_items=[deal_pb2.LineItem(product_id="product_01h455vb4pex5vsknk084sn02q")])


async def test_a_sku_names_one_product_and_finds_it(sales: Tenant) -> None:
    seat = product_pb2.Product(display_name="Seat", sku="S-1")
    made = await sales.call("ProductService/CreateProduct", product=seat)
    assert made.active
    with pytest.raises(AlreadyExists):
        await sales.call("ProductService/CreateProduct", product=product_pb2.Product(display_name="Other", sku="S-1"))
    answer = await sales.call(
        "ProductService/BatchUpsertProducts",
        requests=[
            product_pb2.UpsertProductRequest(product=product_pb2.Product(display_name="Chair", sku="S-1")),
            product_pb2.UpsertProductRequest(product=product_pb2.Product(display_name="Seat", sku="S-2")),
            product_pb2.UpsertProductRequest(product=product_pb2.Product(display_name="Table")),
            product_pb2.UpsertProductRequest(product=product_pb2.Product(display_name="table")),
        ],
    )
    assert answer.results[0].product.id == made.id
    assert len({result.product.id for result in answer.results}) == 3
    assert answer.results[2].product.id == answer.results[3].product.id


def stage(name: str, kind: pipeline_pb2.StageKind.ValueType, stage_id: str = "") -> pipeline_pb2.Stage:
    return pipeline_pb2.Stage(id=stage_id, display_name=name, kind=kind)


OPEN, WON, LOST = pipeline_pb2.STAGE_KIND_OPEN, pipeline_pb2.STAGE_KIND_WON, pipeline_pb2.STAGE_KIND_LOST


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([stage("In", OPEN), stage("Yes", WON)], "there is none for lost"),
        ([stage("In", OPEN)], "there is none for won and lost"),
        ([stage("In", OPEN), stage("in", OPEN), stage("Yes", WON), stage("No", LOST)], "has this name"),
        (
            [stage("In", OPEN, "stage_01h455vb4pex5vsknk084sn02q"), stage("Yes", WON), stage("No", LOST)],
            "a new one comes without an id",
        ),
        ([], "stages: it is required"),
    ],
)
async def test_a_pipeline_has_a_stage_of_each_kind_with_names_of_their_own(
    sales: Tenant, stages: list[pipeline_pb2.Stage], said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        await sales.call(
            "PipelineService/CreatePipeline", pipeline=pipeline_pb2.Pipeline(display_name="Renewals", stages=stages)
        )


async def test_a_stage_with_deals_in_it_cannot_go_and_others_can(sales: Tenant) -> None:
    made = await sales.call(
        "PipelineService/CreatePipeline",
        pipeline=pipeline_pb2.Pipeline(
            display_name="Renewals",
            stages=[stage("In", OPEN), stage("Talk", OPEN), stage("Yes", WON), stage("No", LOST)],
        ),
    )
    assert [each.default_probability for each in made.stages] == [0, 0, 100, 0]
    await new_deal(sales, pipeline_id=made.id, stage_id=made.stages[1].id)
    change = pipeline_pb2.Pipeline(id=made.id, stages=[stage("In", OPEN), stage("Yes", WON), stage("No", LOST)])
    with pytest.raises(Precondition, match="there are deals in 'Talk'") as refused:
        await sales.call("PipelineService/UpdatePipeline", pipeline=change)
    assert refused.value.reason == Reason.REASON_IN_USE
    with pytest.raises(Precondition, match="there are deals in 'Talk'"):
        await sales.call("PipelineService/DeletePipeline", id=made.id)
    change = pipeline_pb2.Pipeline(id=made.id, stages=[stage("Talk", OPEN), stage("Yes", WON), stage("Never", LOST)])
    changed = await sales.call("PipelineService/UpdatePipeline", pipeline=change)
    assert [each.id for each in changed.stages[:2]] == [made.stages[1].id, made.stages[2].id]
    assert changed.stages[2].id not in {each.id for each in made.stages}


async def test_one_pipeline_of_a_tenant_is_the_default(sales: Tenant) -> None:
    first = await first_pipeline(sales)
    stages = [stage("In", OPEN), stage("Yes", WON), stage("No", LOST)]
    second = pipeline_pb2.Pipeline(display_name="Renewals", stages=stages, default=True)
    with pytest.raises(AlreadyExists):
        await sales.call("PipelineService/CreatePipeline", pipeline=second)
    second.ClearField("default")
    made = await sales.call("PipelineService/CreatePipeline", pipeline=second)
    with pytest.raises(Precondition, match="make another one the default first"):
        await sales.call("PipelineService/UpdatePipeline", pipeline=pipeline_pb2.Pipeline(id=first.id, default=False))
    with pytest.raises(Precondition, match="make another one the default first"):
        await sales.call("PipelineService/DeletePipeline", id=first.id)
    await sales.call("PipelineService/UpdatePipeline", pipeline=pipeline_pb2.Pipeline(id=made.id, default=True))
    listed = (await sales.call("PipelineService/ListPipelines")).pipelines
    assert {each.id: each.default for each in listed} == {first.id: False, made.id: True}
    assert (await new_deal(sales)).pipeline_id == made.id


async def test_a_call_repeated_with_its_request_id_makes_one_deal(sales: Tenant) -> None:
    request_id = str(uuid4())
    answers = await asyncio.gather(
        *(
            sales.call(
                "DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Once", amount=EUR_10), request_id=request_id
            )
            for _ in range(2)
        )
    )
    assert answers[0] == answers[1]
    assert len((await sales.call("DealService/ListDeals")).deals) == 1


async def test_validate_only_writes_nothing_not_even_the_first_pipeline(sales: Tenant) -> None:
    deal = deal_pb2.Deal(display_name="Never", probability=50)
    answer = await sales.call("DealService/CreateDeal", deal=deal, validate_only=True)
    assert answer.display_name == "Never"
    async with sales.server.platform.db.read(sales.id) as tx:
        ledger = tx.schema.ledger
        assert not await tx.rows(ledger.select().where(ledger.c.tenant_id == sales.id))
