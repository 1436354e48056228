"""The funnel, from events that come late, twice and in any order, to figures that a plain count agrees with."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from crm.internal.v1 import access_pb2
from crm.marketing.v1 import funnel_report_pb2 as pb
from crm.sales.v1 import deal_pb2, lead_pb2
from scipy import stats
from sqlalchemy import bindparam, update
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from chassis import ids
from chassis.access import Access
from chassis.errors import Invalid
from chassis.rows import timestamp
from services.marketing.tables import deal_view
from tests.integration.marketing import story
from tests.integration.marketing.stage import Marketing
from tests.integration.marketing.story import BEGIN, Figures, Story, convert, lead, won

DAY = timedelta(days=1)
KEYS: dict[int, Callable[[lead_pb2.Lead], str | None]] = {
    pb.FUNNEL_SPLIT_SOURCE: lambda each: each.source if each.HasField("source") else None,
    pb.FUNNEL_SPLIT_LANDING_PAGE: lambda each: each.landing_page if each.HasField("landing_page") else None,
    pb.FUNNEL_SPLIT_CAMPAIGN: lambda each: each.campaign_id or None,
    pb.FUNNEL_SPLIT_OWNER: lambda each: each.owner_id or None,
    pb.FUNNEL_SPLIT_PERIOD: story.month,
}


async def report(marketing: Marketing, access: Access | None = None, **fields: Any) -> pb.FunnelReport:
    request = pb.GetFunnelReportRequest(**fields)
    found: pb.FunnelReport = await marketing.call("FunnelReportService/GetFunnelReport", request, access)
    return found


async def happened(marketing: Marketing, *records: Any) -> None:
    await marketing.feed([marketing.change(each) for each in records])


def key_of(group: pb.FunnelGroup | pb.FunnelBottleneck) -> str | None:
    return group.key if group.HasField("key") else None


@pytest.fixture
async def told(marketing: Marketing) -> Story:
    """Four hundred leads, their events shuffled, a third of them delivered twice, in transactions of fifty."""
    chance = random.Random(20)
    made = story.tell(marketing, 400, chance)
    deliveries = made.changes + chance.sample(made.changes, len(made.changes) // 3)
    chance.shuffle(deliveries)
    for first in range(0, len(deliveries), 50):
        await marketing.feed(deliveries[first : first + 50])
    return made


async def test_won_counts_what_is_won_by_deals_in_sight_as_a_rebuild_tells_it(marketing: Marketing) -> None:
    me, other = ids.new("user"), ids.new("user")
    leads = [lead(owner_id=me) for _ in range(3)]
    deals = [won(each, BEGIN + DAY) for each in leads]
    for deal, owner in zip(deals, (me, other, ""), strict=True):
        deal.owner_id = owner
    await happened(marketing, *leads, *deals)
    mine = Access(access_pb2.Access(user_id=me, default_visibility=access_pb2.VISIBILITY_OWN))
    counts = {(found.total.entered, found.total.converted) for found in [await report(marketing, access=mine)]}
    assert counts == {(3, 1)}
    assert (await report(marketing)).total.converted == 3
    # A copy from before owners were kept is filled in by the same revision, and given away by the next.
    async with marketing.platform.db.write(marketing.tenant) as tx:
        await tx.execute(update(deal_view).where(deal_view.c.tenant_id == bindparam("tenant")).values(owner_id=None))
    assert (await report(marketing, access=mine)).total.converted == 0
    await happened(marketing, *deals)
    assert (await report(marketing, access=mine)).total.converted == 1
    deals[0].owner_id = other
    await marketing.feed([marketing.change(deals[0], revision=2)])
    assert (await report(marketing, access=mine)).total.converted == 0


def check_group(group: pb.FunnelGroup, expected: Figures) -> None:
    assert (group.entered, group.converted) == (expected.entered, expected.won)
    assert group.rate == pytest.approx(expected.won / expected.entered)
    interval = proportion_confint(expected.won, expected.entered, method="wilson")
    assert (group.rate_low, group.rate_high) == pytest.approx(interval, abs=1e-12)
    assert [(step.entered, step.passed) for step in group.steps] == [
        (expected.entered, expected.converted),
        (expected.converted, expected.converted_won),
        (expected.entered, expected.won),
    ]
    for step, all_durations in zip(group.steps, expected.durations.values(), strict=True):
        durations = [each for each in all_durations if each >= timedelta()]
        assert step.negative_count == len(all_durations) - len(durations)
        assert step.HasField("median_duration") == bool(durations)
        if durations:
            wanted = [story.quantile(durations, fraction) / DAY for fraction in (0.5, 0.9)]
            got = [step.median_duration.ToTimedelta() / DAY, step.p90_duration.ToTimedelta() / DAY]
            assert got == pytest.approx(wanted, abs=1e-9)


def check_comparison(groups: list[pb.FunnelGroup], total: pb.FunnelGroup) -> None:
    expected = []
    for group in groups:
        won_there, rest = group.converted, total.entered - group.entered
        won_elsewhere, pooled = total.converted - group.converted, total.converted / total.entered
        if min(group.entered, rest) * pooled < 5:
            assert group.test == pb.FUNNEL_TEST_FISHER_EXACT
            table = [[won_there, group.entered - won_there], [won_elsewhere, rest - won_elsewhere]]
            expected.append(stats.fisher_exact(table).pvalue)
        else:
            assert group.test == pb.FUNNEL_TEST_TWO_PROPORTION_Z
            expected.append(proportions_ztest([won_there, won_elsewhere], [group.entered, rest])[1])
        assert group.lost_conversions == pytest.approx(group.entered * won_elsewhere / rest - won_there)
    assert [group.p_value for group in groups] == pytest.approx(expected, rel=1e-7)
    adjusted = list(multipletests(expected, method="fdr_bh")[1])
    assert [group.adjusted_p_value for group in groups] == pytest.approx(adjusted, rel=1e-7)


def check_verdicts(made: pb.FunnelReport) -> None:
    for group in made.groups:
        if group.adjusted_p_value > 0.05:
            assert group.verdict == pb.FUNNEL_VERDICT_NOT_DIFFERENT
        else:
            worse = group.lost_conversions > 0
            assert group.verdict == (pb.FUNNEL_VERDICT_WORSE if worse else pb.FUNNEL_VERDICT_BETTER)
    worse_groups = [each for each in made.groups if each.verdict == pb.FUNNEL_VERDICT_WORSE]
    worse_groups.sort(key=lambda each: -each.lost_conversions)
    assert [(key_of(each), each.lost_conversions, each.rate, each.adjusted_p_value) for each in made.bottlenecks] == [
        (key_of(each), each.lost_conversions, each.rate, each.adjusted_p_value) for each in worse_groups
    ]


async def test_the_funnel_agrees_with_a_plain_count(marketing: Marketing, told: Story) -> None:
    kinds = set()
    for split, key in KEYS.items():
        made = await report(marketing, split_by=split, time_zone="America/Sao_Paulo")
        check_group(made.total, story.figures(told.leads, told.deals))
        expected = story.groups(told.leads, key)
        assert {key_of(each) for each in made.groups} == set(expected)
        assert [each.entered for each in made.groups] == sorted(map(len, expected.values()), reverse=True)
        for group in made.groups:
            check_group(group, story.figures(expected[key_of(group)], told.deals))
        check_comparison(list(made.groups), made.total)
        check_verdicts(made)
        kinds |= {each.test for each in made.groups} | {-each.verdict for each in made.groups}
    # The story holds both tests and all three verdicts, so none of the above was said of nothing.
    assert kinds == {pb.FUNNEL_TEST_TWO_PROPORTION_Z, pb.FUNNEL_TEST_FISHER_EXACT, -1, -2, -3}


async def test_not_split_it_has_no_groups(marketing: Marketing, told: Story) -> None:
    made = await report(marketing)
    check_group(made.total, story.figures(told.leads, told.deals))
    assert not made.groups
    assert not made.bottlenecks
    assert not made.total.HasField("key")
    assert not made.total.HasField("p_value")


async def test_of_a_record_the_last_revision_counts_whatever_came_first(marketing: Marketing) -> None:
    one = lead()
    convert(one, BEGIN + DAY)
    deal = won(one, BEGIN + 2 * DAY)
    reopened = deal_pb2.Deal(id=deal.id, lead_id=one.id, state=deal_pb2.DEAL_STATE_OPEN)
    again = won(one, BEGIN + 5 * DAY)
    again.id = deal.id
    revisions = [marketing.change(deal, 2, "won"), marketing.change(reopened, 3, "reopened")]
    await marketing.feed([marketing.change(one, 3, "converted"), *reversed(revisions)])
    await marketing.feed(revisions)
    assert (await report(marketing)).total.converted == 0
    # One transaction may hold several revisions of a record.
    await marketing.feed(
        [marketing.change(again, 4, "won"), *revisions, marketing.change(lead(id=one.id), 1, "created")]
    )
    total = (await report(marketing)).total
    assert total.converted == 1
    assert total.steps[2].median_duration.ToTimedelta() == 5 * DAY


async def test_what_is_deleted_does_not_count_until_it_is_undeleted(marketing: Marketing) -> None:
    one = lead()
    deal = won(one, BEGIN + DAY)
    await happened(marketing, one, deal)
    deal.delete_time.CopyFrom(timestamp(BEGIN))
    await marketing.feed([marketing.change(deal, 2, "deleted")])
    total = (await report(marketing)).total
    assert (total.entered, total.converted) == (1, 0)
    one.delete_time.CopyFrom(timestamp(BEGIN))
    await marketing.feed([marketing.change(one, 2, "deleted")])
    assert (await report(marketing)).total.entered == 0
    for record in (one, deal):
        record.ClearField("delete_time")
        await marketing.feed([marketing.change(record, 3, "undeleted")])
    total = (await report(marketing)).total
    assert (total.entered, total.converted) == (1, 1)


async def test_a_lead_with_two_won_deals_is_one_customer_since_the_first(marketing: Marketing) -> None:
    one = lead()
    convert(one, BEGIN)
    await happened(marketing, one, won(one, BEGIN + 9 * DAY), won(one, BEGIN + 3 * DAY))
    total = (await report(marketing)).total
    assert total.converted == 1
    assert total.steps[2].median_duration.ToTimedelta() == 3 * DAY


async def test_a_won_deal_may_be_known_before_its_conversion(marketing: Marketing) -> None:
    one = lead()
    await happened(marketing, one, won(one, BEGIN + DAY))
    assert [(each.entered, each.passed) for each in (await report(marketing)).total.steps] == [(1, 0), (0, 0), (1, 1)]


async def test_a_win_before_first_contact_is_counted_and_left_out_of_the_durations(marketing: Marketing) -> None:
    early, late = lead(), lead()
    for one, days in ((early, -2), (late, 4)):
        convert(one, BEGIN + days * DAY)
        await happened(marketing, one, won(one, BEGIN + days * DAY))
    total = (await report(marketing)).total
    assert total.converted == 2
    assert [each.negative_count for each in total.steps] == [1, 0, 1]
    assert total.steps[2].median_duration.ToTimedelta() == 4 * DAY
    # No time at all is a time; it is not left out.
    assert total.steps[1].HasField("median_duration")
    assert total.steps[1].median_duration.ToTimedelta() == timedelta()


async def test_not_said_empty_and_unknown_are_three_sources(marketing: Marketing) -> None:
    await happened(marketing, lead(), lead(source=""), lead(source="unknown"), lead(source="unknown"))
    made = await report(marketing, split_by=pb.FUNNEL_SPLIT_SOURCE)
    assert [(key_of(each), each.entered) for each in made.groups] == [("unknown", 2), ("", 1), (None, 1)]


async def test_filters_choose_leads(marketing: Marketing) -> None:
    owner, campaign = ids.new("user"), ids.new("campaign")
    await happened(
        marketing,
        lead(owner_id=owner, open_time=timestamp(BEGIN)),
        lead(owner_id=owner, campaign_id=campaign, source="email", open_time=timestamp(BEGIN + DAY)),
        lead(source="social", open_time=timestamp(BEGIN + 2 * DAY)),
        lead(source="email", open_time=timestamp(BEGIN + 3 * DAY)),
    )

    async def entered(**filters: Any) -> int:
        return int((await report(marketing, **filters)).total.entered)

    assert await entered() == 4
    # From the start on, to before the end.
    assert await entered(start_time=timestamp(BEGIN + DAY), end_time=timestamp(BEGIN + 3 * DAY)) == 2
    assert await entered(owner_id=owner) == 2
    assert await entered(owner_id=owner, source="email") == 1
    assert await entered(campaign_id=campaign) == 1
    assert await entered(source="email") == 2
    assert await entered(source="") == 1
    assert await entered(campaign_id="") == 3
    assert await entered(source="no such") == 0
    assert await entered(owner_id=ids.new("user")) == 0


async def test_months_begin_where_the_caller_is(marketing: Marketing) -> None:
    await happened(marketing, lead(open_time=timestamp(datetime(2018, 2, 1, 1, 30, tzinfo=UTC))))

    async def month(**fields: Any) -> str:
        made = await report(marketing, split_by=pb.FUNNEL_SPLIT_PERIOD, **fields)
        return str(made.groups[0].key)

    assert await month() == "2018-02"
    assert await month(time_zone="America/Sao_Paulo") == "2018-01"
    assert await month(time_zone="Asia/Tokyo") == "2018-02"


@pytest.mark.parametrize("zone", ["Nowhere/Town", "localtime", "../UTC", "UTC+3", "'; DROP TABLE lead_view --"])
async def test_a_time_zone_that_does_not_exist_is_refused(marketing: Marketing, zone: str) -> None:
    with pytest.raises(Invalid) as refused:
        await report(marketing, split_by=pb.FUNNEL_SPLIT_PERIOD, time_zone=zone)
    assert refused.value.violations[0][0] == "time_zone"


async def test_an_end_before_the_start_is_refused(marketing: Marketing) -> None:
    with pytest.raises(Invalid) as refused:
        await report(marketing, start_time=timestamp(BEGIN), end_time=timestamp(BEGIN - DAY))
    assert refused.value.violations[0][0] == "end_time"


async def test_a_group_that_is_all_has_no_rest_to_be_compared_with(marketing: Marketing) -> None:
    one = lead(source="email")
    await happened(marketing, one, won(one, BEGIN))
    (group,) = (await report(marketing, split_by=pb.FUNNEL_SPLIT_SOURCE)).groups
    assert group.test == pb.FUNNEL_TEST_UNSPECIFIED
    assert group.verdict == pb.FUNNEL_VERDICT_UNSPECIFIED
    assert not group.HasField("p_value")
    assert group.lost_conversions == 0


async def test_without_leads_nothing_is_known(marketing: Marketing) -> None:
    made = await report(marketing, split_by=pb.FUNNEL_SPLIT_SOURCE)
    assert not made.groups
    assert (made.total.entered, made.total.rate, made.total.rate_low, made.total.rate_high) == (0, 0, 0, 1)
    assert not any(step.HasField("median_duration") for step in made.total.steps)


async def groups(marketing: Marketing, **counts: tuple[int, int]) -> None:
    """Leads by source: how many, and how many of them became customers."""
    for source, (entered, customers) in counts.items():
        leads = [lead(source=source) for _ in range(entered)]
        await happened(marketing, *leads, *(won(each, BEGIN) for each in leads[:customers]))


async def test_bottlenecks_come_by_what_they_cost(marketing: Marketing) -> None:
    await groups(marketing, good=(100, 50), poor=(60, 12), none=(40, 0))
    made = await report(marketing, split_by=pb.FUNNEL_SPLIT_SOURCE)
    assert [each.key for each in made.groups] == ["good", "poor", "none"]
    assert [each.key for each in made.bottlenecks] == ["none", "poor"]
    assert made.bottlenecks[0].lost_conversions == pytest.approx(40 * 62 / 160)
    assert made.bottlenecks[0].rest_rate == pytest.approx(62 / 160)


async def test_the_exact_test_serves_where_the_group_or_its_rest_is_small(marketing: Marketing) -> None:
    # At a rate of one half nine leads expect 4.5 customers, ten expect five.
    await groups(marketing, many=(91, 46), few=(9, 4))
    made = await report(marketing, split_by=pb.FUNNEL_SPLIT_SOURCE)
    assert [each.test for each in made.groups] == [pb.FUNNEL_TEST_FISHER_EXACT] * 2

    other = Marketing(marketing.platform, marketing.server)
    await groups(other, many=(90, 45), enough=(10, 5))
    made = await report(other, split_by=pb.FUNNEL_SPLIT_SOURCE)
    assert [each.test for each in made.groups] == [pb.FUNNEL_TEST_TWO_PROPORTION_Z] * 2


async def test_of_very_many_groups_the_largest_are_shown(marketing: Marketing) -> None:
    pages = [f"/{number}" for number in range(1001)] + ["/500"]
    await happened(marketing, *(lead(landing_page=each) for each in pages))
    made = await report(marketing, split_by=pb.FUNNEL_SPLIT_LANDING_PAGE)
    assert made.total.entered == 1002
    assert len(made.groups) == 1000
    assert made.groups[0].key == "/500"


async def test_a_tenant_sees_its_own_leads_alone(marketing: Marketing) -> None:
    other = Marketing(marketing.platform, marketing.server)
    one = lead(source="email")
    await happened(other, one, won(one, BEGIN))
    assert (await report(other)).total.converted == 1
    assert (await report(marketing)).total.entered == 0
    # Not even a deal that names another tenant's lead.
    await happened(marketing, lead(), won(one, BEGIN))
    assert (await report(marketing)).total.converted == 0
    assert (await report(other)).total.converted == 1
