"""A subscriber sees every change once, and keeps its place when the gateway process it hangs on is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
from google.protobuf import json_format

from chassis.contract import load
from deploy.local import control
from tests.running import Client, Running, until


def read(client: Client, stop: threading.Event, found: list[dict[str, Any]], **query: str) -> None:
    """Reads server-sent events until ``stop``, coming again with the last id when the stream ends."""
    last = ""
    while not stop.is_set():
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with client.http.stream("GET", "/v1/events:subscribe", params=query, headers=headers) as answer:
                assert answer.status_code == 200, answer.read()
                for name, event_id, data in _events(answer.iter_lines()):
                    last = event_id or last
                    if name == "" and "event" in data:
                        found.append(data["event"])
                    if stop.is_set():
                        return
        except httpx2.TransportError:
            continue


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    name, event_id, data = "", "", ""
    for line in lines:
        if not line:
            if data:
                yield name, event_id, json.loads(data)
            name, event_id, data = "", "", ""
        elif line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data += line[6:]


def test_a_subscriber_keeps_its_place_when_its_gateway_is_killed(platform: Running) -> None:
    client = platform.tenant("Feed")
    found: list[dict[str, Any]] = []
    stop = threading.Event()
    start = client.post("/v1/companies", {"display_name": "Before"})["create_time"]
    reader = threading.Thread(
        target=read, args=(client, stop, found), kwargs={"types": "crm.contacts.v1.Company", "start_time": start}
    )
    reader.start()
    try:
        until(lambda: found, "the first event arrives")
        writer = platform.client(client.key, client.tenant)
        made = [found[0]["entity_id"]]
        for number in range(40):
            if number in (10, 25):
                control.kill(platform.state, f"gateway-{1 if number == 10 else 2}")
            made.append(_create(writer, f"Company {number}"))
        until(lambda: len(found) >= len(made), f"all {len(made)} events arrive; {len(found)} did")
    finally:
        stop.set()
        client.post("/v1/companies", {"display_name": "Wakes the reader"}) if reader.is_alive() else None
        reader.join(30)
        control.wait_ready(platform.state)
    assert [event["entity_id"] for event in found[: len(made)]] == made


def _create(client: Client, name: str) -> str:
    """Makes a company; a call that a killed gateway cut off is sent again with the same request id."""
    import uuid

    key = {"Idempotency-Key": str(uuid.uuid4())}

    def attempt() -> str:
        try:
            answer = client.http.post("/v1/companies", json={"display_name": name}, headers=key)
        except httpx2.TransportError:
            return ""
        return str(answer.json()["id"]) if answer.is_success else ""

    made: str = until(attempt, "a company is made")
    return made


def test_an_event_says_what_changed_and_who_changed_it(platform: Running) -> None:
    client = platform.tenant("Event")
    company = client.post("/v1/companies", {"display_name": "First"})
    changed = client.patch(f"/v1/companies/{company['id']}", {"display_name": "Second"})
    method = load().methods["/crm.gateway.v1.EventService/Subscribe"]
    request = method.request(entity_ids=[company["id"]])
    json_format.ParseDict({"start_time": company["create_time"]}, request)
    with grpc.insecure_channel(client.address) as channel:
        call: Any = channel.unary_stream(method.path)
        stream = call(request.SerializeToString(), metadata=(("authorization", f"Bearer {client.key}"),), timeout=20)
        events = []
        for answer in stream:
            response: Any = method.response.FromString(answer)
            if response.HasField("event"):
                events.append(response.event)
            if len(events) == 2:
                stream.cancel()
                break
    assert [event.type for event in events] == ["crm.contacts.v1.Company.created", "crm.contacts.v1.Company.updated"]
    assert events[1].before["display_name"] == "First"
    assert events[1].after["display_name"] == "Second"
    assert list(events[1].changed.paths) == ["display_name"]
    assert events[1].revision == 2
    assert events[1].commit_time.ToJsonString() == changed["update_time"]
    assert events[1].actor.startswith("api_key_")
    assert len(events[1].trace_id) == 32


def test_another_tenants_place_and_a_forged_one_are_refused(platform: Running) -> None:
    mine, other = platform.tenant("Mine"), platform.tenant("Other")
    start = mine.post("/v1/companies", {"display_name": "x"})["create_time"]
    with mine.http.stream("GET", "/v1/events:subscribe", params={"start_time": start}) as answer:
        place = next(event_id for _, event_id, _ in _events(answer.iter_lines()))
    for client, replay_id in ((other, place), (mine, place[:-2] + "AA"), (mine, "forged")):
        answer = client.http.get("/v1/events:subscribe", params={"replay_id": replay_id})
        assert answer.status_code == 400, answer.text
        assert "REPLAY_ID_INVALID" in answer.text
