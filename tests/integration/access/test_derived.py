"""What is made of records, timelines, reports and events, shows no more than the records themselves would."""

from __future__ import annotations

import functools
from typing import Any
from uuid import uuid4

import pytest
from crm.gateway.v1.event_pb2 import SubscribeRequest
from crm.type.v1 import change_pb2

from chassis import contract, ids
from chassis.change import Change
from chassis.context import Caller
from chassis.errors import Failure
from gateway.live.rendering import event_of
from gateway.live.wanted import Wanted, check_wanted, may_see
from gateway.transcode import Transcoder
from tests.integration.access.restricted import ALL, HIDDEN, NONE, OWN, TEAM, House, Restricted
from tests.running import until

_TIMELINE = "/crm.activities.v1.TimelineService/ListTimeline"
_PIPELINE = "/crm.sales.v1.PipelineReportService/GetPipelineReport"
_FUNNEL = "/crm.marketing.v1.FunnelReportService/GetFunnelReport"


@pytest.fixture(scope="module")
def story(house: House) -> dict[str, Any]:
    """A contact of the user's with deals of the user's, its mate's and a stranger's in a pipeline of their own."""
    resources = contract.load().resources
    contact, pipeline = house.make(resources["contact"], house.me), house.make(resources["pipeline"])
    common = {"contact_id": contact["id"], "pipeline_id": pipeline["id"]}
    owners = {"mine": house.me, "team": house.mate, "other": house.stranger, "nobody": ""}
    deals = {name: house.make(resources["deal"], owner, **common) for name, owner in owners.items()}
    for each in deals.values():
        until(functools.partial(timeline, house.who(ALL), each["id"]), "the deal's creation shows")
    return {"contact": contact, "pipeline": pipeline, **deals}


def timeline(who: Restricted, subject: str) -> set[str]:
    """The records that a timeline tells of."""
    return {each["entity_id"] for each in who.call(_TIMELINE, {"subject_id": subject})["entries"]}


def test_a_timeline_tells_of_the_records_that_its_reader_may_see(house: House, story: dict[str, Any]) -> None:
    subject, names = story["contact"]["id"], ("contact", "mine", "team", "other", "nobody")
    for visibility, seen in ((NONE, 0), (OWN, 2), (TEAM, 3), (ALL, 5)):
        assert timeline(house.who(visibility), subject) == {story[name]["id"] for name in names[:seen]}
    only_deals = house.who(NONE, seen={"deal": TEAM})
    assert timeline(only_deals, subject) == {story["mine"]["id"], story["team"]["id"]}


def test_a_timeline_follows_a_record_to_its_next_owner(house: House, story: dict[str, Any]) -> None:
    deal = house.make(contract.load().resources["deal"], house.stranger)
    until(lambda: timeline(house.who(ALL), deal["id"]), "its creation shows")
    assert not timeline(house.who(OWN), deal["id"])
    house.world.client.patch(f"/v1/deals/{deal['id']}", {"owner_id": house.me})
    until(lambda: timeline(house.who(OWN), deal["id"]), "it shows to its new owner")
    house.world.client.patch(f"/v1/deals/{deal['id']}", {"owner_id": house.stranger})
    until(lambda: not timeline(house.who(OWN), deal["id"]), "it is out of sight again")


def test_a_timeline_leaves_out_what_is_hidden(house: House, story: dict[str, Any]) -> None:
    who = house.who(ALL, ("deal", "amount", HIDDEN), ("deal", "display_name", HIDDEN))
    entries = who.call(_TIMELINE, {"subject_id": story["mine"]["id"]})["entries"]
    named = {each["field"] for entry in entries for each in entry["changes"]}
    assert "stage_id" in named
    assert not named & {"amount", "display_name"}
    assert not any(entry.get("display_name") for entry in entries)


def test_a_pipeline_report_counts_the_deals_that_its_reader_may_see(house: House, story: dict[str, Any]) -> None:
    asked = {"pipeline_id": story["pipeline"]["id"], "group_by": ["PIPELINE_GROUPING_OWNER"]}
    for visibility, count in ((NONE, 0), (OWN, 1), (TEAM, 2), (ALL, 4)):
        report = house.who(visibility, seen={"pipeline": ALL}).call(_PIPELINE, asked)
        assert int(report["total"].get("deal_count", 0)) == count
        assert len(report.get("groups", [])) == count
    for name in ("amount", "stage_id"):
        with pytest.raises(Failure) as found:
            house.who(ALL, ("deal", name, HIDDEN)).call(_PIPELINE, asked)
        assert found.value.reason_name == "PERMISSION_DENIED"
    with pytest.raises(Failure) as found:
        house.who(ALL, ("deal", "owner_id", HIDDEN)).call(_PIPELINE, asked)
    assert found.value.reason_name == "FIELD_UNKNOWN"


def test_the_funnel_follows_the_leads_that_its_reader_may_see(house: House) -> None:
    lead = contract.load().resources["lead"]
    source = house.world.text()
    for owner in (house.me, house.mate, house.stranger, ""):
        house.make(lead, owner, source=source)
    asked = {"source": source}

    def count(who: Restricted) -> int:
        return int(who.call(_FUNNEL, asked)["total"].get("entered", 0))

    until(lambda: count(house.who(ALL)) == 4, "the funnel knows the leads")
    for visibility, entered in ((NONE, 0), (OWN, 1), (TEAM, 2)):
        assert count(house.who(visibility)) == entered
    with pytest.raises(Failure) as found:
        count(house.who(ALL, ("lead", "source", HIDDEN)))
    assert found.value.reason_name == "FIELD_UNKNOWN"


def test_an_event_passes_to_those_who_may_see_its_record_before_or_after(house: House) -> None:
    deal = contract.load().resources["deal"]
    before: Any = deal.message(id=ids.new("deal"), owner_id=house.me, display_name="A")
    after = deal.message(id=before.id, owner_id=house.stranger, display_name="B")
    change = _change(before, after)
    assert may_see(_caller(house.who(OWN)), change)
    assert not may_see(_caller(house.who(OWN)), _change(after, after))
    assert not may_see(_caller(house.who(NONE)), change)
    assert may_see(_caller(house.who(ALL)), _change(after, after))


def test_an_event_shows_no_hidden_field_and_cannot_be_asked_for_by_one(house: House) -> None:
    deal = contract.load().resources["deal"]
    before: Any = deal.message(id=ids.new("deal"), loss_reason="price", display_name="A")
    after = deal.message(id=before.id, loss_reason="other", display_name="B")
    caller = _caller(house.who(ALL, ("deal", "loss_reason", HIDDEN)))
    event = event_of(_change(before, after), Transcoder(), caller)
    with pytest.raises(Failure):
        check_wanted(SubscribeRequest(types=["crm.sales.v1.Deal"], changed_fields=["loss_reason"]), caller)
    for text in ('loss_reason = "price"', "changed:loss_reason"):
        asked = SubscribeRequest(types=["crm.sales.v1.Deal"], filter=text)
        with pytest.raises(Failure) as refused:
            check_wanted(asked, caller)
        assert refused.value.reason_name == "FILTER_UNKNOWN_FIELD"
        assert not Wanted(asked).takes(_change(after, before), caller), "not by a filter that was opened before either"
        assert Wanted(asked).takes(_change(after, before), _caller(house.who(ALL)))
    unseen = _change(before, deal.message(id=before.id, loss_reason="other", display_name="A"), "loss_reason")
    assert not Wanted(SubscribeRequest(filter="changed:*")).takes(unseen, caller)
    assert list(event.changed.paths) == ["display_name"]
    assert "loss_reason" not in event.before
    assert "loss_reason" not in event.after
    assert event.after["display_name"] == "B"


def _caller(who: Restricted) -> Caller:
    return Caller(uuid4(), who.house.me, frozenset({"*"}), "gateway", access=who.access)


def _change(before: Any, after: Any, *changed: str) -> Change:
    message = change_pb2.Change(
        event_id=str(uuid4()), type="crm.sales.v1.Deal.updated", entity_id=after.id, revision=2,
        before=before.SerializeToString(), after=after.SerializeToString(),
    )  # fmt: skip
    message.changed.paths.extend(changed or ["display_name", "loss_reason"])
    return Change("sales", 1, uuid4(), message)
