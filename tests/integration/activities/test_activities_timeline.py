"""The timeline: each change once, on every record it concerns, whatever the order in which events arrive."""

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest
from crm.activities.v1 import task_pb2, timeline_pb2
from crm.contacts.v1 import contact_pb2
from crm.sales.v1 import deal_pb2, lead_pb2
from google.protobuf.json_format import MessageToDict
from google.type.money_pb2 import Money

from chassis import ids
from chassis.errors import Invalid
from chassis.events import Change
from chassis.rows import timestamp
from services.activities.projection import subjects_of
from tests.integration.activities.stage import Activities, Story, at

LEAD, DEAL, COMPANY, ANNA, BEN, TASK = (
    ids.new(kind) for kind in ("lead", "deal", "company", "contact", "contact", "task")
)


def won_lead(activities: Activities) -> Story:
    """A lead is converted and won; then its deal and a task move from Anna to Ben."""
    story = Story(activities.tenant)
    lead = lead_pb2.Lead(id=LEAD, display_name="Acme", source="organic_search")
    converted = lead_pb2.Lead(
        id=LEAD, display_name="Acme", source="organic_search", converted_contact_id=ANNA,
        converted_company_id=COMPANY, converted_deal_id=DEAL,
    )  # fmt: skip
    deal = deal_pb2.Deal(id=DEAL, display_name="Acme, 40 seats", lead_id=LEAD, company_id=COMPANY, contact_id=ANNA)
    won = deal_pb2.Deal(state=deal_pb2.DEAL_STATE_WON, amount=Money(currency_code="BRL", units=900, nanos=500_000_000))
    won.MergeFrom(deal)
    bens = deal_pb2.Deal()
    bens.CopyFrom(won)
    bens.contact_id = BEN
    task = task_pb2.Task(id=TASK, title="Ring back", status=task_pb2.TASK_STATUS_OPEN, related_ids=[LEAD, ANNA])
    moved = task_pb2.Task(id=TASK, title="Ring back", status=task_pb2.TASK_STATUS_OPEN, related_ids=[BEN])
    story.tell("created", 0, lead)
    story.tell("created", 5, task)
    story.tell("created", 9, contact_pb2.Contact(id=ANNA, display_name="Anna"))
    story.tell("created", 9, contact_pb2.Contact(id=BEN, display_name="Ben"))
    story.tell("converted", 10, converted, lead)
    story.tell("created", 10, deal)
    story.tell("won", 10, won, deal)
    story.tell("updated", 20, bens, won)
    story.tell("updated", 21, moved, task)
    return story


def expected(changes: Iterable[Change], subject: str) -> list[str]:
    """The ids of the events on a record's timeline, said once more in the plainest way."""
    changes = list(changes)
    linked = {each.entity_id for each in changes if subject in subjects_of(each)}
    shown = [each for each in changes if each.entity_id in linked]
    return [str(each.event_id) for each in sorted(shown, key=lambda it: (it.occur_time, it.service, it.position))]


async def event_ids(activities: Activities, subject: str) -> list[str]:
    return [entry.event_id for entry in await activities.timeline(subject)]


async def test_a_won_lead_reads_created_converted_won(activities: Activities) -> None:
    await activities.deliver(won_lead(activities).changes)
    assert await activities.kinds(LEAD, kinds=["lead", "deal.won"]) == ["lead.created", "lead.converted", "deal.won"]
    assert await activities.kinds(LEAD) == [
        "lead.created",
        "task.created",
        "lead.converted",
        "deal.created",
        "deal.won",
        "deal.updated",
        "task.updated",
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_order_and_repetition_of_deliveries_do_not_matter(activities: Activities, seed: int) -> None:
    story, chance = won_lead(activities), random.Random(seed)
    deliveries = story.changes + chance.choices(story.changes, k=8)
    chance.shuffle(deliveries)
    while deliveries:
        size = chance.randint(1, 5)
        # Two replicas at once, each with a group of its own.
        await asyncio.gather(activities.deliver(deliveries[:size]), activities.deliver(deliveries[size : 2 * size]))
        del deliveries[: 2 * size]
    for subject in (LEAD, DEAL, COMPANY, ANNA, BEN, TASK):
        assert await event_ids(activities, subject) == expected(story.changes, subject)


async def test_many_replicas_at_once_lose_no_link(activities: Activities) -> None:
    story = Story(activities.tenant)
    task = ids.new("task")
    for hour in range(30):
        story.tell("updated", hour, task_pb2.Task(id=task, title="Ring", related_ids=[ids.new("contact")]))
    await asyncio.gather(*(activities.deliver([change]) for change in story.changes))
    for change in story.changes:
        subject = change.after.related_ids[0]
        assert await event_ids(activities, subject) == expected(story.changes, subject)


async def test_a_late_link_brings_what_happened_before(activities: Activities) -> None:
    story = Story(activities.tenant)
    lead = lead_pb2.Lead(id=LEAD, display_name="Acme")
    converted = lead_pb2.Lead(id=LEAD, display_name="Acme", converted_company_id=COMPANY)
    await activities.deliver([story.tell("created", 0, lead)])
    assert await activities.kinds(COMPANY) == []
    await activities.deliver([story.tell("converted", 1, converted, lead)])
    assert await activities.kinds(COMPANY) == ["lead.created", "lead.converted"]
    cleared = story.tell("updated", 2, lead, converted)
    await activities.deliver([cleared])
    assert await activities.kinds(COMPANY) == ["lead.created", "lead.converted", "lead.updated"]


async def test_paging_is_exact_in_both_directions(activities: Activities) -> None:
    story = Story(activities.tenant)
    task = task_pb2.Task(id=TASK, title="Ring", related_ids=[ANNA])
    for number in range(23):
        story.tell("updated", number // 4, task)  # several at the same time
    await activities.deliver(story.changes)
    whole = expected(story.changes, ANNA)
    for page_size in (1, 4, 7, 23, 50):
        up = await activities.timeline(ANNA, page_size=page_size)
        down = await activities.timeline(ANNA, page_size=page_size, ascending=False)
        assert [entry.event_id for entry in up] == whole
        assert [entry.event_id for entry in down] == whole[::-1]


async def test_a_page_token_belongs_to_its_own_query(activities: Activities) -> None:
    story = won_lead(activities)
    await activities.deliver(story.changes)
    request = timeline_pb2.ListTimelineRequest(subject_id=LEAD, page_size=2)
    token = (await activities.call("TimelineService/ListTimeline", request)).next_page_token
    stranger = Activities(activities.platform, activities.server)
    for asker, other in (
        (activities, timeline_pb2.ListTimelineRequest(subject_id=DEAL, page_token=token)),
        (activities, timeline_pb2.ListTimelineRequest(subject_id=LEAD, ascending=True, page_token=token)),
        (activities, timeline_pb2.ListTimelineRequest(subject_id=LEAD, kinds=["deal"], page_token=token)),
        (activities, timeline_pb2.ListTimelineRequest(subject_id=LEAD, page_token=token[:-4] + "aaaa")),
        (stranger, timeline_pb2.ListTimelineRequest(subject_id=LEAD, page_token=token)),
    ):
        with pytest.raises(Invalid) as refused:
            await asker.call("TimelineService/ListTimeline", other)
        assert refused.value.violations[0][0] == "page_token"


async def test_kinds_and_times_narrow_a_timeline(activities: Activities) -> None:
    await activities.deliver(won_lead(activities).changes)
    assert await activities.kinds(LEAD, kinds=["deal"]) == ["deal.created", "deal.won", "deal.updated"]
    assert await activities.kinds(LEAD, kinds=["deal.won", "task.created"]) == ["task.created", "deal.won"]
    assert await activities.kinds(LEAD, kinds=["api_key.created"]) == []
    assert await activities.kinds(LEAD, start_time=timestamp(at(5)), end_time=timestamp(at(10))) == ["task.created"]


@pytest.mark.parametrize("kind", ["deals", "deal.wonn", "Deal", "deal.", "won"])
async def test_a_kind_that_does_not_exist_is_refused(activities: Activities, kind: str) -> None:
    with pytest.raises(Invalid) as refused:
        await activities.timeline(LEAD, kinds=["deal", kind])
    assert refused.value.violations[0][0] == "kinds[1]"


async def test_nothing_is_known_of_an_unknown_record_or_of_another_tenants(activities: Activities) -> None:
    await activities.deliver(won_lead(activities).changes)
    assert await activities.timeline(ids.new("contact")) == []
    assert await activities.timeline(ids.new("spaceship")) == []
    assert await Activities(activities.platform, activities.server).timeline(LEAD) == []
    assert len(await activities.timeline(LEAD)) == 7


async def test_an_entry_says_what_changed_by_whom_and_when(activities: Activities) -> None:
    story = won_lead(activities)
    await activities.deliver(story.changes)
    (entry,) = await activities.timeline(DEAL, kinds=["deal.won"])
    change = next(each for each in story.changes if each.verb == "won")
    assert (entry.type, entry.entity_id, entry.display_name) == ("crm.sales.v1.Deal.won", DEAL, "Acme, 40 seats")
    assert (entry.actor, entry.revision, entry.trace_id) == ("user_somebody", 2, change.trace_id)
    assert (entry.occur_time, entry.commit_time) == (change.message.occur_time, change.message.commit_time)
    assert fields_of(entry) == {
        "amount": {"after": {"currency_code": "BRL", "units": "900", "nanos": 500_000_000}},
        "state": {"after": "DEAL_STATE_WON"},
    }
    (moved,) = await activities.timeline(DEAL, kinds=["deal.updated"])
    assert fields_of(moved) == {"contact_id": {"before": ANNA, "after": BEN}}


async def test_a_task_shows_on_the_records_it_is_about(activities: Activities) -> None:
    task = task_pb2.Task(id=TASK, title="Ring back", related_ids=[ANNA], due_time=timestamp(at(24)))
    story = Story(activities.tenant)
    await activities.deliver([story.tell("created", 0, task)])
    (entry,) = await activities.timeline(ANNA)
    assert (entry.kind, entry.display_name) == ("task.created", "Ring back")
    assert fields_of(entry) == {
        "title": {"after": "Ring back"},
        "due_time": {"after": "2018-03-02T12:00:00Z"},
        "related_ids": {"after": [ANNA]},
    }


def fields_of(entry: timeline_pb2.TimelineEntry) -> dict[str, Any]:
    """An entry's changes by field, as JSON shows them."""
    changes = [MessageToDict(each) for each in entry.changes]
    return {each.pop("field"): each for each in changes}
