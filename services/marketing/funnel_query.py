"""The funnel's one statement: leads, how far each came, and when, counted for all and for each group."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from crm.marketing.v1 import funnel_report_pb2 as pb
from crm.sales.v1 import deal_pb2, lead_pb2
from google.protobuf.message import Message
from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Select,
    Text,
    Uuid,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import context, contract
from chassis.rows import moment, uuid_of
from services.marketing.tables import deal_view, lead_view

MOST_GROUPS: Final = 1_000

# Groups that are records, with the prefix of their ids.
REFERENCES: Final = {pb.FUNNEL_SPLIT_CAMPAIGN: "campaign", pb.FUNNEL_SPLIT_OWNER: "user"}

_SPLITS: Final[dict[int, ColumnElement[Any]]] = {
    pb.FUNNEL_SPLIT_UNSPECIFIED: cast(null(), Text),
    pb.FUNNEL_SPLIT_SOURCE: lead_view.c.source,
    pb.FUNNEL_SPLIT_LANDING_PAGE: lead_view.c.landing_page,
    pb.FUNNEL_SPLIT_CAMPAIGN: lead_view.c.campaign_id,
    pb.FUNNEL_SPLIT_OWNER: lead_view.c.owner_id,
    pb.FUNNEL_SPLIT_PERIOD: func.to_char(func.timezone(bindparam("zone"), lead_view.c.open_time), "YYYY-MM"),
}

# The columns in which each step begins and ends.
_STEPS: Final = {
    pb.FUNNEL_STEP_KIND_LEAD_TO_CONVERTED: ("open_time", "convert_time"),
    pb.FUNNEL_STEP_KIND_CONVERTED_TO_WON: ("convert_time", "won_time"),
    pb.FUNNEL_STEP_KIND_LEAD_TO_WON: ("open_time", "won_time"),
}


def read(request: pb.GetFunnelReportRequest) -> tuple[Select[Any], dict[str, Any]]:
    """The statement and its parameters. Its first row is all leads together; the groups follow, the largest first."""
    leads = _leads(_SPLITS[request.split_by], list(_filters(request)))
    is_total = func.grouping(leads.c.key).label("is_total")
    entered = func.count().label("entered")
    statement = (
        select(is_total, leads.c.key, entered, *_counts(leads), *_durations(leads))
        .group_by(func.grouping_sets(tuple_(), tuple_(leads.c.key)))
        .order_by(is_total.desc(), entered.desc(), leads.c.key.nulls_last())
        .limit(1 + MOST_GROUPS)
    )
    periods = request.split_by == pb.FUNNEL_SPLIT_PERIOD
    return statement, {"zone": request.time_zone or "UTC"} if periods else {}


def durations(row: Any, step: pb.FunnelStepKind.ValueType) -> tuple[dt.timedelta | None, dt.timedelta | None, int]:
    """Median, 90th percentile, and how many are negative and left out, of one step in a row of `read`."""
    return getattr(row, f"median_{step}"), getattr(row, f"p90_{step}"), getattr(row, f"negative_{step}")


def _won() -> FromClause:
    """When a lead first brought a customer by a deal in sight; NULL where it has not.
    A lead may have several won deals and counts once. It is a look-up a lead in deal_view_won_ix: joined as a whole,
    the planner may compare every lead with every deal, for it knows how many leads a tenant has on average, not how
    many this one has.
    this one has.
    """
    statement = select(func.min(deal_view.c.close_time).label("won_time")).where(
        deal_view.c.tenant_id == bindparam("tenant"),
        deal_view.c.lead_id == lead_view.c.id,
        # In the statement's text: a generic plan cannot tell that a parameter meets the index's condition.
        deal_view.c.state == literal_column(str(deal_pb2.DEAL_STATE_WON)),
        ~deal_view.c.deleted,
        *_in_sight(deal_view.c.owner_id, deal_pb2.Deal),
    )
    return statement.lateral("won")


def _in_sight(owner_id: Column[Any], resource: type[Message]) -> Iterator[ColumnElement[bool]]:
    """The condition that the caller may see a record; none where it may see every one."""
    if (owners := context.owners(contract.descriptor_of(resource))) is not None:
        yield owner_id == func.any(cast(owners, ARRAY(Uuid)))


def _leads(key: ColumnElement[Any], filters: list[ColumnElement[bool]]) -> FromClause:
    """A row a lead: its group, whether and when it was converted and won."""
    deals = _won()
    converted = lead_view.c.status == lead_pb2.LEAD_STATUS_CONVERTED
    return (
        select(
            key.label("key"),
            lead_view.c.open_time,
            lead_view.c.convert_time,
            deals.c.won_time,
            converted.label("converted"),
            deals.c.won_time.is_not(None).label("won"),
        )
        .select_from(lead_view.join(deals, true()))
        .where(lead_view.c.tenant_id == bindparam("tenant"), ~lead_view.c.deleted, *filters)
        .subquery("leads")
    )


def _filters(request: pb.GetFunnelReportRequest) -> Iterator[ColumnElement[bool]]:
    yield from _in_sight(lead_view.c.owner_id, lead_pb2.Lead)
    if request.HasField("start_time"):
        yield lead_view.c.open_time >= moment(request.start_time)
    if request.HasField("end_time"):
        yield lead_view.c.open_time < moment(request.end_time)
    if request.HasField("source"):
        yield _is(lead_view.c.source, request.source)
    if request.HasField("owner_id"):
        yield _is(lead_view.c.owner_id, uuid_of(request.owner_id) if request.owner_id else "")
    if request.HasField("campaign_id"):
        yield _is(lead_view.c.campaign_id, uuid_of(request.campaign_id) if request.campaign_id else "")


def _is(column: Column[Any], wanted: str | UUID) -> ColumnElement[bool]:
    """An empty text asks for the leads that have none."""
    return column == wanted if wanted else column.is_(None)


def _counts(leads: FromClause) -> list[ColumnElement[int]]:
    won, converted = leads.c.won, leads.c.converted
    return [
        func.count().filter(converted).label("converted"),
        func.count().filter(won).label("won"),
        # A won deal may be known before its lead's conversion is: such a lead has not taken this step yet.
        func.count().filter(converted & won).label("converted_won"),
    ]


def _durations(leads: FromClause) -> Iterator[ColumnElement[Any]]:
    for step, (first, last) in _STEPS.items():
        began, ended = leads.c[first], leads.c[last]
        for name, fraction in (("median", 0.5), ("p90", 0.9)):
            quantile = func.percentile_cont(literal(fraction)).within_group(ended - began)
            yield quantile.filter(ended >= began).label(f"{name}_{step}")
        yield func.count().filter(ended < began).label(f"negative_{step}")
