"""The funnel: how leads become customers, and which of them are lost beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from crm.marketing.v1 import funnel_report_pb2 as pb
from crm.sales.v1 import deal_pb2, lead_pb2

from chassis import contract, ids, masks
from chassis.checks import check_time_zone
from chassis.errors import Reason, invalid
from chassis.rows import moment
from chassis.service import Service
from chassis.work import View
from services.marketing import funnel_query
from services.marketing.statistics import benjamini_hochberg, fisher_exact, two_proportion_z, wilson

SIGNIFICANT: Final = 0.05
# With fewer expected conversions the normal approximation of the z-test is too coarse (Cochran's rule).
_FEWEST_EXPECTED: Final = 5

_DEAL: Final = contract.descriptor_of(deal_pb2.Deal)
_LEAD: Final = contract.descriptor_of(lead_pb2.Lead)
_FILTERS: Final[tuple[Literal["source", "owner_id", "campaign_id"], ...]] = ("source", "owner_id", "campaign_id")
# The field of a lead that a split goes by, where it is not one of those every report is made of.
_SPLIT_FIELDS: Final[dict[int, str]] = {
    pb.FUNNEL_SPLIT_SOURCE: "source",
    pb.FUNNEL_SPLIT_LANDING_PAGE: "landing_page",
    pb.FUNNEL_SPLIT_CAMPAIGN: "campaign_id",
    pb.FUNNEL_SPLIT_OWNER: "owner_id",
}

_Group = pb.FunnelGroup | pb.FunnelStep


class FunnelReports(Service, serves="crm.marketing.v1.FunnelReportService"):
    """Reports on where marketing wins and loses people."""

    async def GetFunnelReport(self, request: pb.GetFunnelReportRequest, view: View) -> pb.FunnelReport:
        """Follows leads from first contact to a won deal, split as asked, each group against the rest.

        Up to `funnel_query.MOST_GROUPS` groups are shown and tested, the largest; each against all other leads.
        """
        _check_times(request)
        _check_access(request)
        total, *rows = await view.rows(*funnel_query.read(request))
        report = pb.FunnelReport(split_by=request.split_by, total=_group(total))
        if request.split_by:
            report.groups.extend(_group(row, _key(row.key, request.split_by)) for row in rows)
            _compare(report.groups, report.total)
            report.bottlenecks.extend(_bottlenecks(report.groups, report.total))
        return report


def _check_access(request: pb.GetFunnelReportRequest) -> None:
    """Raises Denied where the caller may not see what the report is made of; Invalid for a hidden split."""
    masks.check_made_of(_DEAL, ("close_time", "lead_id", "state"))
    masks.check_made_of(_LEAD, ("convert_time", "open_time", "status"))
    if request.split_by in _SPLIT_FIELDS:
        masks.check_named("split_by", _SPLIT_FIELDS[request.split_by], _LEAD)
    for name in _FILTERS:
        if request.HasField(name):
            masks.check_named(name, name, _LEAD)


def _check_times(request: pb.GetFunnelReportRequest) -> None:
    bounded = request.HasField("start_time") and request.HasField("end_time")
    if bounded and moment(request.end_time) < moment(request.start_time):
        raise invalid("end_time", "it lies before start_time", Reason.REASON_TIME_INVALID)
    if request.time_zone:
        check_time_zone(request.time_zone)


# ---- figures -----------------------------------------------------------------------------------------------


def _key(value: Any, split_by: pb.FunnelSplit.ValueType) -> str | None:
    """What the group has in common as the caller knows it; None is kept: not said is a group of its own."""
    if value is None:
        return None
    prefix = funnel_query.REFERENCES.get(split_by)
    return ids.encode(prefix, value) if prefix else str(value)


def _group(row: Any, key: str | None = None) -> pb.FunnelGroup:
    group = pb.FunnelGroup(key=key, entered=row.entered, converted=row.won)
    _set_rate(group, row.won, row.entered)
    counts = {
        pb.FUNNEL_STEP_KIND_LEAD_TO_CONVERTED: (row.entered, row.converted),
        pb.FUNNEL_STEP_KIND_CONVERTED_TO_WON: (row.converted, row.converted_won),
        pb.FUNNEL_STEP_KIND_LEAD_TO_WON: (row.entered, row.won),
    }
    for kind, (entered, passed) in counts.items():
        step = group.steps.add(kind=kind, entered=entered, passed=passed)
        _set_rate(step, passed, entered)
        median, p90, step.negative_count = funnel_query.durations(row, kind)
        if median is not None and p90 is not None:
            step.median_duration.FromTimedelta(median)
            step.p90_duration.FromTimedelta(p90)
    return group


def _set_rate(figures: _Group, passed: int, entered: int) -> None:
    interval = wilson(passed, entered)
    figures.rate = passed / entered if entered else 0.0
    figures.rate_low, figures.rate_high = interval.low, interval.high


# ---- comparison --------------------------------------------------------------------------------------------


def _compare(groups: Sequence[pb.FunnelGroup], total: pb.FunnelGroup) -> None:
    """Says of each group whether it differs from all other leads beyond chance. One that is all is not tested."""
    tested = [group for group in groups if group.entered < total.entered]
    for group in tested:
        group.test = _test_for(group, total)
        test = fisher_exact if group.test == pb.FUNNEL_TEST_FISHER_EXACT else two_proportion_z
        rest = total.entered - group.entered
        group.p_value = test(group.converted, group.entered, total.converted - group.converted, rest)
        group.lost_conversions = group.entered * _rest_rate(group, total) - group.converted
    for group, adjusted in zip(tested, benjamini_hochberg([each.p_value for each in tested]), strict=True):
        group.adjusted_p_value = adjusted
        if adjusted > SIGNIFICANT:
            group.verdict = pb.FUNNEL_VERDICT_NOT_DIFFERENT
        else:
            worse = group.rate < _rest_rate(group, total)
            group.verdict = pb.FUNNEL_VERDICT_WORSE if worse else pb.FUNNEL_VERDICT_BETTER


def _test_for(group: pb.FunnelGroup, total: pb.FunnelGroup) -> pb.FunnelTest.ValueType:
    """The exact test where the group or its rest, at the rate of all, expects fewer than five conversions."""
    smaller = min(group.entered, total.entered - group.entered)
    if smaller * total.converted < _FEWEST_EXPECTED * total.entered:
        return pb.FUNNEL_TEST_FISHER_EXACT
    return pb.FUNNEL_TEST_TWO_PROPORTION_Z


def _rest_rate(group: pb.FunnelGroup, total: pb.FunnelGroup) -> float:
    return (total.converted - group.converted) / (total.entered - group.entered)


def _bottlenecks(groups: Sequence[pb.FunnelGroup], total: pb.FunnelGroup) -> list[pb.FunnelBottleneck]:
    """The groups that do worse than the rest, the costliest first."""
    worse = [group for group in groups if group.verdict == pb.FUNNEL_VERDICT_WORSE]
    return [
        pb.FunnelBottleneck(
            key=group.key if group.HasField("key") else None,
            lost_conversions=group.lost_conversions,
            rate=group.rate,
            rest_rate=_rest_rate(group, total),
            adjusted_p_value=group.adjusted_p_value,
        )
        for group in sorted(worse, key=lambda each: each.lost_conversions, reverse=True)
    ]
