"""Deals: sales in progress, and how they end."""

from __future__ import annotations

import datetime as dt
from typing import Any
from weakref import WeakKeyDictionary

from crm.sales.v1 import deal_pb2 as pb
from crm.sales.v1 import pipeline_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import Precondition, Reason, invalid
from chassis.resource import Record, Resource
from chassis.rows import moment, timestamp
from chassis.service import Service
from chassis.work import Work
from services.sales import tables
from services.sales.pipelines import first_stage, open_stage, pipeline_for
from services.sales.products import products

_STATES = {pb.DEAL_STATE_OPEN: "open", pb.DEAL_STATE_WON: "won", pb.DEAL_STATE_LOST: "lost"}


async def prepare(work: Work, deal: pb.Deal, before: pb.Deal | None) -> None:
    """Opens a new deal in its pipeline. Raises Invalid for another's stage, mixed currencies, unknown products."""
    if before is None:
        await _open(work, deal)
    else:
        _keep_place(work, deal, before)
    _check_currencies(deal)
    await _check_products(work, deal, before)


async def _open(work: Work, deal: pb.Deal) -> None:
    pipeline = await pipeline_for(work, deal.pipeline_id)
    kind = pipeline_pb2.STAGE_KIND_OPEN
    stage = open_stage(pipeline, deal.stage_id) if deal.stage_id else first_stage(pipeline, kind)
    deal.pipeline_id, deal.stage_id, deal.state = pipeline.id, stage.id, pb.DEAL_STATE_OPEN
    deal.stage_history.add(stage_id=stage.id, enter_time=deal.open_time)


def _keep_place(work: Work, deal: pb.Deal, before: pb.Deal) -> None:
    """A deal changes its stage only together with its history, which only the verbs write."""
    been = {stay.stage_id for stay in deal.stage_history}
    if work.method is not None and work.method.name == "BatchUpsertDeals" and deal.stage_id in been:
        # What said where the deal begins may be said again when it has gone on from there.
        deal.stage_id = deal.stage_history[-1].stage_id
    if work.method is not None and work.method.name == "RevertDeal":
        deal.stage_id = before.stage_id
    if deal.pipeline_id != before.pipeline_id:
        raise invalid("pipeline_id", "it is set when a deal is made", Reason.REASON_STAGE_INVALID)
    if deal.stage_id != deal.stage_history[-1].stage_id:
        message = "`:move`, `:win`, `:lose` and `:reopen` change it"
        raise invalid("stage_id", message, Reason.REASON_STAGE_INVALID)


def _check_currencies(deal: pb.Deal) -> None:
    currency = deal.amount.currency_code
    for index, item in enumerate(deal.line_items):
        if not item.HasField("unit_price"):
            continue
        currency = currency or item.unit_price.currency_code
        if item.unit_price.currency_code != currency:
            raise invalid(f"line_items[{index}].unit_price.currency_code", f"the deal is in {currency}")


# The products that a unit of work knows to exist.
_known_products: WeakKeyDictionary[Work, set[str]] = WeakKeyDictionary()


async def _check_products(work: Work, deal: pb.Deal, before: pb.Deal | None) -> None:
    if not deal.line_items or (before is not None and before.line_items == deal.line_items):
        return
    known = _known_products.setdefault(work, set())
    wanted = {item.product_id for item in deal.line_items if item.product_id}
    if new := wanted - known:
        known |= (await work.get_many(products, sorted(new))).keys()
    for index, item in enumerate(deal.line_items):
        if item.product_id and item.product_id not in known:
            message = f"there is no product '{item.product_id}'"
            raise invalid(f"line_items[{index}].product_id", message, Reason.REASON_NOT_FOUND)


deals: Resource[pb.Deal] = Resource(pb.Deal, tables.deals, prepare=prepare, optimistic=True)


class Deals(Service, serves="crm.sales.v1.DealService"):
    """Sales in progress."""

    resource = deals

    async def created(self, request: Any, record: pb.Deal, work: Work) -> pb.Deal:
        """Closes the deal in the same step where the request says how it ended."""
        if not request.HasField("close"):
            return record
        return await close(work, work.record_of(deals, record), request.close, request.occur_time)

    async def merged(self, request: Any, record: Record[pb.Deal], work: Work) -> pb.Deal:
        """Closes an existing deal where the request says how it ended; one that ended so already stays as it is."""
        if not request.HasField("close") or record.before.state == _end(request.close):
            return record.before
        return await close(work, record, request.close, request.occur_time)

    async def MoveDeal(self, request: pb.MoveDealRequest, work: Work) -> pb.Deal:
        """Moves a deal to another open stage of its pipeline."""
        deal = await work.lock(deals, request.id, request.etag)
        _require(deal.before, pb.DEAL_STATE_OPEN)
        stage = open_stage(await pipeline_for(work, deal.before.pipeline_id), request.stage_id)
        if stage.id == deal.before.stage_id:
            message = f"the deal is in '{stage.display_name}' already"
            raise Precondition(Reason.REASON_STAGE_INVALID, message, violations=[("stage_id", message)])
        happened = await work.happened(deals, request.occur_time)
        enter(deal.after, stage.id, happened)
        return await work.update(deal, "moved", occur_time=happened)

    async def WinDeal(self, request: pb.WinDealRequest, work: Work) -> pb.Deal:
        """Wins a deal."""
        deal = await work.lock(deals, request.id, request.etag)
        if request.HasField("amount"):
            deal.after.amount.CopyFrom(request.amount)
        return await close(work, deal, pb.DealClose(won=pb.DealWon()), request.occur_time)

    async def LoseDeal(self, request: pb.LoseDealRequest, work: Work) -> pb.Deal:
        """Loses a deal."""
        deal = await work.lock(deals, request.id, request.etag)
        lost = pb.DealLost(loss_reason=request.loss_reason)
        return await close(work, deal, pb.DealClose(lost=lost), request.occur_time)

    async def ReopenDeal(self, request: pb.ReopenDealRequest, work: Work) -> pb.Deal:
        """Opens a closed deal again, in the stage given or the open one it was in last."""
        deal = await work.lock(deals, request.id, request.etag)
        _require(deal.before, pb.DEAL_STATE_WON, pb.DEAL_STATE_LOST)
        pipeline = await pipeline_for(work, deal.before.pipeline_id)
        if request.stage_id:
            stage = open_stage(pipeline, request.stage_id)
        else:
            been = [stay.stage_id for stay in deal.before.stage_history]
            stage = first_stage(pipeline, pipeline_pb2.STAGE_KIND_OPEN, been)
        happened = await work.happened(deals, request.occur_time)
        enter(deal.after, stage.id, happened)
        deal.after.state = pb.DEAL_STATE_OPEN
        deal.after.ClearField("close_time")
        deal.after.ClearField("loss_reason")
        return await work.update(deal, "reopened", occur_time=happened)


async def close(work: Work, deal: Record[pb.Deal], how: pb.DealClose, occur_time: Timestamp | None) -> pb.Deal:
    """Ends an open deal the way ``how`` says, at its time or else at ``occur_time``.

    Raises Precondition, STATE_INVALID, for a deal that is not open.
    """
    _require(deal.before, pb.DEAL_STATE_OPEN)
    state, won = _end(how), how.HasField("won")
    happened = await work.happened(deals, how.occur_time if how.HasField("occur_time") else occur_time)
    pipeline = await pipeline_for(work, deal.before.pipeline_id)
    stage = first_stage(pipeline, pipeline_pb2.STAGE_KIND_WON if won else pipeline_pb2.STAGE_KIND_LOST)
    enter(deal.after, stage.id, happened)
    deal.after.state = state
    deal.after.close_time.CopyFrom(timestamp(happened))
    deal.after.loss_reason = how.lost.loss_reason
    return await work.update(deal, "won" if won else "lost", occur_time=happened)


def enter(deal: pb.Deal, stage_id: str, at: dt.datetime) -> None:
    """Ends the deal's stay in its stage and begins one in another. The duration is negative where times say so."""
    last = deal.stage_history[-1]
    last.exit_time.CopyFrom(timestamp(at))
    last.duration.FromTimedelta(at - moment(last.enter_time))
    deal.stage_history.add(stage_id=stage_id, enter_time=timestamp(at))
    deal.stage_id = stage_id


def _end(how: pb.DealClose) -> pb.DealState.ValueType:
    return pb.DEAL_STATE_WON if how.HasField("won") else pb.DEAL_STATE_LOST


def _require(deal: pb.Deal, *states: pb.DealState.ValueType) -> None:
    if deal.state not in states:
        wanted = " or ".join(_STATES[each] for each in states)
        raise Precondition(Reason.REASON_STATE_INVALID, f"the deal is {_STATES[deal.state]}; it must be {wanted}")
