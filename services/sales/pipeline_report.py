"""The pipeline report: how many deals, worth how much, won how often and how fast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from crm.sales.v1 import deal_pb2, pipeline_pb2
from crm.sales.v1 import pipeline_report_pb2 as pb
from sqlalchemy import Numeric, Select, Subquery, Text, Uuid, bindparam, case, cast, extract, func, null, select
from sqlalchemy import tuple_ as group
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import context, contract, ids, masks
from chassis.checks import check_time_zone
from chassis.rows import moment, money, uuid_of
from chassis.service import Service
from chassis.sql import Row
from chassis.work import View
from services.sales.pipelines import default_pipeline, pipelines
from services.sales.tables import deals

_WON, _LOST = int(deal_pb2.DEAL_STATE_WON), int(deal_pb2.DEAL_STATE_LOST)
_DEAL: Final = contract.descriptor_of(deal_pb2.Deal)
_MADE_OF: Final = ("amount", "close_time", "open_time", "probability", "stage_id", "state")
# What google.type.Money keeps.
_DECIMALS: Final = 9


class PipelineReports(Service, serves="crm.sales.v1.PipelineReportService"):
    """Reports on deals."""

    async def GetPipelineReport(self, request: pb.GetPipelineReportRequest, view: View) -> pb.PipelineReport:
        """Counts and sums the deals of a pipeline that the caller may see, all together and by group."""
        _check_fields(request)
        if request.pipeline_id:
            pipeline = await view.get(pipelines, request.pipeline_id)
        else:
            pipeline = await default_pipeline(self.platform, view)
        chosen = _chosen(request, pipeline)
        return _report(pipeline, await view.rows(_figures(chosen)), await view.rows(_amounts(chosen)), request)


def _chosen(request: pb.GetPipelineReportRequest, pipeline: pipeline_pb2.Pipeline) -> Subquery:
    """The deals of the report, each with the keys of its group; those that are not asked for are null."""
    wanted = set(request.group_by) or {pb.PIPELINE_GROUPING_STAGE}
    at = func.timezone(_time_zone(request.time_zone), func.coalesce(deals.c.close_time, deals.c.open_time))
    keys = {
        "stage_id": (pb.PIPELINE_GROUPING_STAGE, deals.c.stage_id),
        "owner_id": (pb.PIPELINE_GROUPING_OWNER, deals.c.owner_id),
        "period": (pb.PIPELINE_GROUPING_PERIOD, func.to_char(at, "YYYY-MM", type_=Text)),
    }
    usual = {uuid_of(stage.id): stage.default_probability for stage in pipeline.stages}
    probability = func.coalesce(deals.c.probability, case(usual, value=deals.c.stage_id, else_=0))
    weighted = case(
        (deals.c.state == _WON, deals.c.amount),
        (deals.c.state == _LOST, 0),
        else_=func.round(deals.c.amount * probability * cast("0.01", Numeric), _DECIMALS),
    )
    statement = select(
        *((key if kind in wanted else cast(null(), key.type)).label(name) for name, (kind, key) in keys.items()),
        deals.c.state,
        deals.c.amount,
        deals.c.amount_currency.label("currency"),
        weighted.label("weighted"),
        case((deals.c.state == _WON, extract("epoch", deals.c.close_time - deals.c.open_time))).label("cycle_s"),
    ).where(
        deals.c.tenant_id == bindparam("tenant"),
        deals.c.pipeline_id == uuid_of(pipeline.id),
        deals.c.delete_time.is_(None),
    )
    if request.HasField("start_time"):
        statement = statement.where(deals.c.open_time >= moment(request.start_time))
    if request.HasField("end_time"):
        statement = statement.where(deals.c.open_time < moment(request.end_time))
    if (owners := context.owners(_DEAL)) is not None:
        statement = statement.where(deals.c.owner_id == func.any(cast(owners, ARRAY(Uuid))))
    if request.owner_id:
        statement = statement.where(deals.c.owner_id == uuid_of(request.owner_id))
    return statement.subquery("chosen")


def _check_fields(request: pb.GetPipelineReportRequest) -> None:
    """Raises Denied or Invalid where the caller may not read what the report is made of, or grouped by."""
    masks.check_made_of(_DEAL, _MADE_OF)
    if pb.PIPELINE_GROUPING_OWNER in request.group_by:
        masks.check_named("group_by", "owner_id", _DEAL)
    if request.owner_id:
        masks.check_named("owner_id", "owner_id", _DEAL)


def _time_zone(name: str) -> str:
    zone = name or "UTC"
    check_time_zone(zone)
    return zone


def _figures(chosen: Subquery) -> Select[Any]:
    """Counts and the median cycle time: one row for all deals together, one for each group."""
    keys, count, cycle = (chosen.c.stage_id, chosen.c.owner_id, chosen.c.period), func.count(), chosen.c.cycle_s
    return select(
        func.grouping(chosen.c.stage_id).label("whole"),
        *keys,
        count.label("deals"),
        count.filter(chosen.c.state == _WON).label("won"),
        count.filter(chosen.c.state == _LOST).label("lost"),
        func.percentile_cont(0.5).within_group(cycle).filter(cycle >= 0).label("median_s"),
        count.filter(cycle < 0).label("negative"),
    ).group_by(func.grouping_sets(group(), group(*keys)))


def _amounts(chosen: Subquery) -> Select[Any]:
    """Exact sums by currency: rows for all deals together, and rows for each group."""
    keys = (chosen.c.stage_id, chosen.c.owner_id, chosen.c.period)
    won = func.sum(chosen.c.amount).filter(chosen.c.state == _WON)
    return (
        select(
            func.grouping(chosen.c.stage_id).label("whole"),
            *keys,
            chosen.c.currency,
            func.sum(chosen.c.amount).label("amount"),
            func.sum(chosen.c.weighted).label("weighted"),
            func.coalesce(won, 0).label("won"),
        )
        .where(chosen.c.currency.is_not(None))
        .group_by(func.grouping_sets(group(chosen.c.currency), group(chosen.c.currency, *keys)))
        .order_by(chosen.c.currency)
    )


def _report(
    pipeline: pipeline_pb2.Pipeline,
    figures: Iterable[Row],
    amounts: Iterable[Row],
    request: pb.GetPipelineReportRequest,
) -> pb.PipelineReport:
    report = pb.PipelineReport(pipeline_id=pipeline.id)
    stages = {uuid_of(stage.id): stage for stage in pipeline.stages}
    order = {stage_id: index for index, stage_id in enumerate(stages)}
    by_group: dict[Any, pb.PipelineFigures] = {}
    for row in sorted(figures, key=lambda it: (order.get(it.stage_id, -1), str(it.owner_id or ""), it.period or "")):
        entry = report.total if row.whole else report.groups.add()
        by_group[_key(row)] = entry
        if row.stage_id is not None:
            entry.stage_id = ids.encode("stage", row.stage_id)
            entry.stage_display_name = stages[row.stage_id].display_name if row.stage_id in stages else ""
        entry.owner_id = ids.encode("user", row.owner_id) if row.owner_id else ""
        entry.period = row.period or ""
        _count(entry, row)
    for row in amounts:
        # The first deal of a group may be committed between the two statements.
        if (found := by_group.get(_key(row))) is not None:
            found.amounts.add(
                amount=money(row.amount, row.currency),
                weighted_amount=money(row.weighted, row.currency),
                won_amount=money(row.won, row.currency),
            )
    return report


def _key(row: Row) -> Any:
    return (row.whole, row.stage_id, row.owner_id, row.period)


def _count(entry: pb.PipelineFigures, row: Row) -> None:
    entry.deal_count, entry.won_count, entry.lost_count = row.deals, row.won, row.lost
    entry.open_count = row.deals - row.won - row.lost
    if closed := row.won + row.lost:
        entry.win_rate = row.won / closed
    if row.median_s is not None:
        entry.median_cycle_time.FromMicroseconds(round(row.median_s * 1_000_000))
    entry.negative_cycle_count = row.negative
