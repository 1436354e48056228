"""Records taken back to what they were."""

from __future__ import annotations

from typing import Any

import pytest
from crm.sales.v1 import deal_pb2, lead_pb2, pipeline_pb2
from crm.type.v1.common_pb2 import ExternalId
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from chassis.errors import Aborted, Invalid, NotFound, Precondition, Reason
from tests.integration.sales.house import Tenant

EUR_10 = Money(currency_code="EUR", units=10)


async def changed_deal(sales: Tenant) -> tuple[deal_pb2.Deal, deal_pb2.Deal]:
    """A deal as it was made, and as it is after its fields changed and it moved on."""
    first = await sales.call("DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Acme", tags=["warm"]))
    await sales.call(
        "DealService/UpdateDeal",
        deal=deal_pb2.Deal(id=first.id, display_name="Acme — 40 seats", amount=EUR_10, description="urgent"),
        update_mask=FieldMask(paths=["display_name", "amount", "description", "tags"]),
    )
    pipeline = await sales.call("PipelineService/GetPipeline", id=first.pipeline_id)
    moved = await sales.call("DealService/MoveDeal", id=first.id, stage_id=pipeline.stages[2].id)
    return first, moved


async def test_its_fields_go_back_and_what_verbs_change_stays(sales: Tenant) -> None:
    first, moved = await changed_deal(sales)
    reverted = await sales.call("DealService/RevertDeal", id=first.id, revision=1)
    assert (reverted.display_name, list(reverted.tags)) == ("Acme", ["warm"])
    assert not reverted.HasField("amount")
    assert not reverted.HasField("description")
    assert (reverted.stage_id, reverted.stage_history) == (moved.stage_id, moved.stage_history)
    assert reverted.create_time == first.create_time
    assert await sales.call("DealService/GetDeal", id=first.id) == reverted
    assert [*await sales.ledger(first.id)][-1] == ("reverted", 4)


async def test_a_time_names_the_revision_that_was_known_then(sales: Tenant) -> None:
    first, moved = await changed_deal(sales)
    second = (await sales.call("DealService/ListDealRevisions", id=first.id)).revisions[1].deal
    await sales.call("DealService/RevertDeal", id=first.id, as_of=first.update_time)
    again = await sales.call("DealService/RevertDeal", id=first.id, as_of=second.update_time)
    assert (again.display_name, again.amount) == (moved.display_name, moved.amount)


async def test_going_back_to_what_it_is_writes_nothing(sales: Tenant) -> None:
    first, moved = await changed_deal(sales)
    assert await sales.call("DealService/RevertDeal", id=first.id, revision=3) == moved
    tried = await sales.call("DealService/RevertDeal", id=first.id, revision=1, validate_only=True)
    assert tried.display_name == "Acme"
    assert await sales.call("DealService/GetDeal", id=first.id) == moved


@pytest.mark.parametrize(
    ("asked", "failure", "reason"),
    [
        ({"revision": 4}, NotFound, Reason.REASON_NOT_FOUND),
        ({"as_of": "before"}, NotFound, Reason.REASON_NOT_FOUND),
        ({"revision": 1, "etag": '"1"'}, Aborted, Reason.REASON_ETAG_MISMATCH),
        ({"revision": 0}, Invalid, Reason.REASON_FIELD_INVALID),
        ({}, Invalid, Reason.REASON_FIELD_INVALID),
    ],
)
async def test_what_cannot_be_meant_is_refused(sales: Tenant, asked: Any, failure: Any, reason: Any) -> None:
    first, _ = await changed_deal(sales)
    if "as_of" in asked:
        first.create_time.seconds -= 60
        asked = {"as_of": first.create_time}
    with pytest.raises(failure) as refused:
        await sales.call("DealService/RevertDeal", id=first.id, **asked)
    assert refused.value.reason == reason


async def test_a_deleted_record_is_undeleted_first(sales: Tenant) -> None:
    first, _ = await changed_deal(sales)
    await sales.call("DealService/DeleteDeal", id=first.id)
    with pytest.raises(Precondition) as refused:
        await sales.call("DealService/RevertDeal", id=first.id, revision=1)
    assert refused.value.reason == Reason.REASON_DELETED


async def test_a_key_that_another_record_took_meanwhile_is_not_taken_back(sales: Tenant) -> None:
    key = ExternalId(system="erp", id="7")
    one = await sales.call("LeadService/CreateLead", lead=lead_pb2.Lead(given_name="Ana", external_ids=[key]))
    mask = FieldMask(paths=["external_ids"])
    await sales.call("LeadService/UpdateLead", lead=lead_pb2.Lead(id=one.id), update_mask=mask)
    other = await sales.call("LeadService/CreateLead", lead=lead_pb2.Lead(given_name="Eva", external_ids=[key]))
    with pytest.raises(Precondition) as refused:
        await sales.call("LeadService/RevertLead", id=one.id, revision=1)
    assert (refused.value.reason, refused.value.metadata["id"]) == (Reason.REASON_KEY_TAKEN, other.id)
    await sales.call("LeadService/DeleteLead", id=other.id)
    back = await sales.call("LeadService/RevertLead", id=one.id, revision=1)
    assert list(back.external_ids) == [key]


async def test_a_pipeline_gets_its_stages_and_its_first_place_back(sales: Tenant) -> None:
    (first,) = (await sales.call("PipelineService/ListPipelines")).pipelines
    fewer = pipeline_pb2.Pipeline(
        id=first.id, stages=[each for each in first.stages if each.display_name != "Proposal"]
    )
    await sales.call("PipelineService/UpdatePipeline", pipeline=fewer)
    second = pipeline_pb2.Pipeline(display_name="Partners", stages=first.stages)
    for stage in second.stages:
        stage.ClearField("id")
    second = await sales.call("PipelineService/CreatePipeline", pipeline=second)
    await sales.call("PipelineService/UpdatePipeline", pipeline=pipeline_pb2.Pipeline(id=second.id, default=True))
    back = await sales.call("PipelineService/RevertPipeline", id=first.id, revision=1)
    assert (back.stages, back.default) == (first.stages, True)
    assert not (await sales.call("PipelineService/GetPipeline", id=second.id)).default
