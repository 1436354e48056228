"""Campaigns and touches: what marketing adds to the standard methods."""

from datetime import UTC, datetime, timedelta

import pytest
from crm.marketing.v1 import campaign_pb2, touch_pb2
from sqlalchemy import select

from chassis import ids
from chassis.errors import Invalid, Precondition
from chassis.rows import timestamp
from chassis.search.sweep import sweep_once
from tests.integration.marketing.stage import Marketing

NOON = datetime(2018, 3, 1, 12, tzinfo=UTC)


async def create_campaign(marketing: Marketing, name: str = "Spring", **fields: object) -> campaign_pb2.Campaign:
    campaign = campaign_pb2.Campaign(display_name=name, **fields)  # type: ignore[arg-type]
    request = campaign_pb2.CreateCampaignRequest(campaign=campaign)
    created: campaign_pb2.Campaign = await marketing.call("CampaignService/CreateCampaign", request)
    return created


async def create_touch(marketing: Marketing, when: datetime = NOON, **fields: object) -> touch_pb2.Touch:
    touch = touch_pb2.Touch(**{"subject_id": ids.new("contact"), "channel": "paid_search"} | fields)  # type: ignore[arg-type]
    request = touch_pb2.CreateTouchRequest(touch=touch, occur_time=timestamp(when))
    created: touch_pb2.Touch = await marketing.call("TouchService/CreateTouch", request)
    return created


async def test_a_campaign_does_not_end_before_it_begins(marketing: Marketing) -> None:
    start, end = timestamp(NOON), timestamp(NOON - timedelta(seconds=1))
    with pytest.raises(Invalid) as refused:
        await create_campaign(marketing, start_time=start, end_time=end)
    assert refused.value.violations[0][0] == "campaign.end_time"
    assert (await create_campaign(marketing, start_time=start, end_time=start)).end_time == start


async def test_a_touch_is_named_by_channel_and_source(marketing: Marketing) -> None:
    assert (await create_touch(marketing)).display_name == "paid_search"
    assert (await create_touch(marketing, source="google")).display_name == "paid_search, google"
    assert (await create_touch(marketing, source="google", display_name="Ad 7")).display_name == "Ad 7"
    long = await create_touch(marketing, channel="c" * 100, source="s" * 200)
    assert len(long.display_name) == 200


async def test_a_touch_happened_when_its_maker_says(marketing: Marketing) -> None:
    assert (await create_touch(marketing)).touch_time == timestamp(NOON)


async def test_a_touch_is_of_a_contact_or_a_lead(marketing: Marketing) -> None:
    for kind in ("contact", "lead"):
        assert (await create_touch(marketing, subject_id=ids.new(kind))).subject_id.startswith(f"{kind}_")
    with pytest.raises(Invalid) as refused:
        await create_touch(marketing, subject_id=ids.new("company"))
    assert refused.value.violations[0][0] == "touch.subject_id"


async def test_a_touch_belongs_to_a_campaign_that_exists(marketing: Marketing) -> None:
    campaign = await create_campaign(marketing)
    touch = await create_touch(marketing, campaign_id=campaign.id)
    assert touch.campaign_id == campaign.id
    with pytest.raises(Precondition) as refused:
        await create_touch(marketing, campaign_id=ids.new("campaign"))
    assert refused.value.violations[0][0] == "touch.campaign_id"

    other = Marketing(marketing.platform, marketing.server)
    with pytest.raises(Precondition):
        await create_touch(other, campaign_id=campaign.id)


async def test_touches_of_a_person_are_found(marketing: Marketing) -> None:
    touch = await create_touch(marketing)
    await create_touch(marketing)
    request = touch_pb2.ListTouchesRequest(filter=f'subject_id = "{touch.subject_id}"')
    page = await marketing.call("TouchService/ListTouches", request)
    assert [each.id for each in page.touches] == [touch.id]


async def test_the_spellings_of_a_word_go_with_its_last_record(marketing: Marketing) -> None:
    platform = marketing.platform
    table = platform.db.schema.search_spellings

    async def kept() -> set[str]:
        async with platform.db.worker() as connection:
            rows = await connection.rows(select(table.c.word).where(table.c.tenant_id == marketing.tenant).distinct())
        return {row.word for row in rows}

    gone, back, _ = [await create_campaign(marketing, name=name) for name in ("Quincunx", "Zephyr", "Spring")]
    for each in (gone, back):
        await marketing.call("CampaignService/DeleteCampaign", campaign_pb2.DeleteCampaignRequest(id=each.id))
    unused = await sweep_once(platform, frozenset())
    assert {word for tenant, word in unused if tenant == marketing.tenant} == {"quincunx", "zephyr"}
    assert await kept() == {"quincunx", "zephyr", "spring"}, "a word that is gone for a moment stays"
    await marketing.call("CampaignService/UndeleteCampaign", campaign_pb2.UndeleteCampaignRequest(id=back.id))
    await sweep_once(platform, unused)
    assert await kept() == {"zephyr", "spring"}
