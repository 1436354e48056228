"""The live feed: every change of the tenant that the subscriber may see, once, whatever breaks meanwhile."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import grpc
import httpx2
import pytest

from chassis.contract import load
from deploy.local import control
from tests.integration.gateway.stream import Stream
from tests.running import Client, Running, until


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    return platform.tenant("Live")


def make(client: Client, name: str) -> dict[str, Any]:
    return client.post("/v1/contacts", {"given_name": name})


def names(events: list[dict[str, Any]]) -> list[str]:
    """The contacts' names: what tells of the tenant's own making may still be on its way."""
    return [event["after"]["given_name"] for event in events if event["type"].startswith("crm.contacts.v1.Contact.")]


def test_a_change_arrives_readable_and_whole(client: Client) -> None:
    with Stream(client, {"types": "crm.contacts.v1.Contact"}) as stream:
        made = make(client, "Ana")
        reply = client.http.patch(f"/v1/contacts/{made['id']}", json={"job_title": "Buyer"})
        stream.saw(lambda events: len(events) >= 2, "two events")
    created, updated = stream.events[:2]
    assert created["type"] == "crm.contacts.v1.Contact.created"
    assert created["entity_id"] == made["id"]
    assert created["after"]["given_name"] == "Ana"
    assert "before" not in created
    assert updated["type"] == "crm.contacts.v1.Contact.updated"
    assert updated["revision"] == "2"
    assert updated["changed"] == "job_title"
    assert "job_title" not in updated["before"]
    assert updated["after"]["job_title"] == "Buyer"
    assert updated["trace_id"] == reply.headers["x-trace-id"]
    assert updated["actor"].startswith("api_key_")
    assert stream.messages[0].name == "checkpoint"


def test_a_stream_goes_on_after_the_id_it_saw_last(client: Client) -> None:
    with Stream(client) as stream:
        make(client, "seen")
        stream.saw(lambda events: "seen" in names(events), "the first")
    for number in range(5):
        make(client, f"missed {number}")
    with Stream(client, last_event_id=stream.last_event_id) as again:
        make(client, "live")
        again.saw(lambda events: "live" in names(events), "the last")
    assert names(again.events) == [*(f"missed {number}" for number in range(5)), "live"]


def test_filters_choose_by_type_and_record(client: Client) -> None:
    one, other = make(client, "one"), make(client, "other")
    with (
        Stream(client, {"types": "crm.contacts.v1.Contact.updated"}) as by_verb,
        Stream(client, {"types": "crm.contacts.v1.Company"}) as by_resource,
        Stream(client, {"entity_ids": one["id"]}) as by_record,
    ):
        for each in (one, other):
            client.patch(f"/v1/contacts/{each['id']}", {"job_title": "Buyer"})
        company = client.post("/v1/companies", {"display_name": "Acme"})
        by_resource.saw(lambda events: events, "the company")
        by_verb.saw(lambda events: len(events) == 2, "both updates")
        by_record.saw(lambda events: events, "the one's update")
    assert [event["entity_id"] for event in by_verb.events] == [one["id"], other["id"]]
    assert [event["entity_id"] for event in by_resource.events] == [company["id"]]
    assert [event["entity_id"] for event in by_record.events] == [one["id"]]


def test_a_start_time_brings_what_was_committed_since(client: Client) -> None:
    made = make(client, "since")
    query = {"start_time": made["create_time"], "entity_ids": made["id"]}
    with Stream(client, query) as stream:
        stream.saw(lambda events: names(events) == ["since"], "the event of the past")


def test_a_replay_id_of_another_tenant_or_a_forged_one_is_refused(platform: Running, client: Client) -> None:
    with Stream(client) as stream:
        mine = stream.last_event_id
    stranger = platform.tenant("Stranger")
    forged = mine[:-4] + ("AAAA" if mine[-4:] != "AAAA" else "BBBB")
    for who, replay_id in ((stranger, mine), (client, forged), (client, "x")):
        reply = who.http.get("/v1/events:subscribe", params={"replay_id": replay_id})
        assert reply.status_code == 400
        assert reply.json()["error"]["details"][0]["reason"] == "REPLAY_ID_INVALID"


def test_an_unknown_type_is_named(client: Client) -> None:
    reply = client.http.get("/v1/events:subscribe", params={"types": "crm.sales.v1.Deal.wonn"})
    assert reply.status_code == 400
    assert "did you mean 'crm.sales.v1.Deal.won'" in reply.json()["error"]["message"]


def test_a_subscriber_sees_only_what_it_may_read(platform: Running, client: Client) -> None:
    key = client.post("/v1/api_keys", {"display_name": "narrow", "scopes": ["events.read", "companies.read"]})
    narrow = platform.client(key["secret"], client.tenant)
    with Stream(narrow) as stream:
        make(client, "hidden")
        client.post("/v1/companies", {"display_name": "Seen"})
        stream.saw(lambda events: events, "the company")
    assert [event["type"] for event in stream.events] == ["crm.contacts.v1.Company.created"]
    without = client.post("/v1/api_keys", {"display_name": "none", "scopes": ["contacts.read"]})
    blind = platform.client(without["secret"], client.tenant)
    assert blind.http.get("/v1/events:subscribe").status_code == 403


def test_tenants_do_not_see_each_other(platform: Running, client: Client) -> None:
    other = platform.tenant("Other")
    with Stream(client) as mine, Stream(other) as theirs:
        make(client, "mine")
        make(other, "theirs")
        mine.saw(lambda events: "mine" in names(events), "mine")
        theirs.saw(lambda events: "theirs" in names(events), "theirs")
    assert "theirs" not in names(mine.events)
    assert "mine" not in names(theirs.events)


def test_a_revoked_key_ends_its_stream(platform: Running, client: Client) -> None:
    key = client.post("/v1/api_keys", {"display_name": "short", "scopes": ["*"]})
    short = platform.client(key["secret"], client.tenant)
    with Stream(short) as stream:
        client.http.delete(f"/v1/api_keys/{key['id']}")

        def ended() -> bool:
            make(client, "poke")
            return bool([each for each in stream.messages if each.name == "end"]) or stream.refused is not None

        until(ended, "the stream ends")
    end = next(each for each in stream.messages if each.name == "end")
    assert end.data["error"]["status"] == "UNAUTHENTICATED"


def test_grpc_subscribers_get_the_same(client: Client) -> None:
    method = load().methods["/crm.gateway.v1.EventService/Subscribe"]
    with grpc.insecure_channel(client.address) as channel, Stream(client) as stream:
        subscribe: Any = channel.unary_stream(method.path)
        responses = subscribe(b"", metadata=(("authorization", f"Bearer {client.key}"),), timeout=30)
        first: Any = method.response.FromString(next(responses))
        assert first.replay_id
        assert not first.HasField("event")
        made = make(client, "both")
        second: Any = method.response.FromString(next(responses))
        assert second.event.entity_id == made["id"]
        stream.saw(lambda events: made["id"] in [event["entity_id"] for event in events], "the same over HTTP")
        responses.cancel()


def seen_once_each(streams: list[Stream], wanted: list[str]) -> bool:
    return all(set(wanted) <= set(names(stream.events)) for stream in streams)


def check_each_once(streams: list[Stream], wanted: list[str]) -> None:
    until(lambda: seen_once_each(streams, wanted), "every subscriber saw every change")
    for stream in streams:
        found = names(stream.events)
        assert sorted(found) == sorted(wanted), "each once"


def test_a_killed_gateway_costs_no_event_and_doubles_none(platform: Running, client: Client) -> None:
    wanted = [f"kill {number}" for number in range(60)]
    with Stream(client) as a, Stream(client) as b, Stream(client) as c:
        for number, name in enumerate(wanted):
            until(partial(_made, client, name), "the contact is made")
            if number in (15, 40):
                control.kill(platform.state, f"gateway-{1 + number % 2}")
        check_each_once([a, b, c], wanted)
        assert a.connections + b.connections + c.connections > 3
    control.wait_ready(platform.state)


def _made(client: Client, name: str) -> bool:
    # The name is the key: a connection that broke says nothing of whether the contact was made.
    found = {"contact": {"given_name": name, "external_ids": [{"system": "test", "id": name}]}}
    try:
        reply = client.http.post("/v1/contacts:batchUpsert", content=json.dumps({"requests": [found]}),
                                 headers={"content-type": "application/json"})  # fmt: skip
    except httpx2.HTTPError:
        return False
    return bool(reply.is_success)


def test_events_come_while_the_broker_is_away_and_after_it_came_back_empty(platform: Running, client: Client) -> None:
    with Stream(client) as stream:
        make(client, "before")
        stream.saw(lambda events: "before" in names(events), "the first")
        control.hold(platform.state, "nats")
        try:
            make(client, "away")
            stream.saw(lambda events: "away" in names(events), "an event without broker")
        finally:
            control.release(platform.state)
        control.wipe_nats(platform.state)
        make(client, "back")
        stream.saw(lambda events: "back" in names(events), "an event after the broker came back empty")
    assert names(stream.events) == ["before", "away", "back"]


def test_a_stopping_gateway_tells_its_streams_where_to_go_on(platform: Running, client: Client) -> None:
    with Stream(client) as a, Stream(client) as b:
        control.restart(platform.state, "gateway")
        make(client, "after")
        for stream in (a, b):
            stream.saw(lambda events: names(events) == ["after"], "the event after the restart")
            ends = [each for each in stream.messages if each.name == "end"]
            assert ends
            assert all(each.data["replay_id"] and each.data["error"]["status"] == "UNAVAILABLE" for each in ends)
