"""Changes are posted to the addresses that clients gave: signed, at least once, and to nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from chassis import ids
from tests.e2e.receiver import Handler, Receiver, plain, receiving
from tests.running import Client, Running, until

COMPANY = "crm.contacts.v1.Company"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Takes the calls of every test here, each at paths of its own."""
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    """A tenant's administrator."""
    return platform.tenant("Webhooks")


def endpoint(client: Client, url: str, **fields: Any) -> dict[str, Any]:
    """A new endpoint that hears of companies."""
    return client.post("/v1/webhook_endpoints", {"url": url, "types": [COMPANY], **fields})


def company(client: Client, name: str) -> str:
    """The id of a new company."""
    made: str = client.post("/v1/companies", {"display_name": name})["id"]
    return made


def delivery(client: Client, made: dict[str, Any], entity_id: str, ready: str = "attempt_count") -> dict[str, Any]:
    """What the log says of a record's change, once it has that field."""

    def found() -> Any:
        page = client.get(f"/v1/webhook_endpoints/{made['id']}:listDeliveries")
        return [each for each in page.get("deliveries", ()) if each["entity_id"] == entity_id and each.get(ready)]

    listed = until(found, f"a delivery of {entity_id} with {ready}")
    assert len(listed) == 1
    answer: dict[str, Any] = listed[0]
    return answer


def state(client: Client, made: dict[str, Any]) -> dict[str, Any]:
    """The endpoint as it is."""
    return client.get(f"/v1/webhook_endpoints/{made['id']}")


def test_the_log_shows_the_deliveries_of_certain_events(client: Client, receiver: Receiver) -> None:
    made = endpoint(client, receiver.url("/certain"))
    one, two, _ = [delivery(client, made, company(client, f"Certain {number}")) for number in range(3)]
    asked = [one["event_id"], two["event_id"]]
    page = client.get(f"/v1/webhook_endpoints/{made['id']}:listDeliveries", event_ids=asked)
    assert [each["event_id"] for each in page["deliveries"]] == asked[::-1]


def test_an_endpoint_hears_of_the_records_that_fit_its_filter(client: Client, receiver: Receiver) -> None:
    made = endpoint(client, receiver.url("/large"), filter="employee_count >= 50")
    for name, count in (("Tiny", 2), ("Huge", 500)):
        client.post("/v1/companies", {"display_name": name, "employee_count": count})
    until(lambda: receiver.of("/large"), "the call arrives")
    assert [each.event["after"]["display_name"] for each in receiver.of("/large")] == ["Huge"]
    client.patch(f"/v1/webhook_endpoints/{made['id']}", {"filter": ""})
    company(client, "Unfiltered")
    until(lambda: receiver.of("/large")[-1].event["after"]["display_name"] == "Unfiltered", "it hears of all")


def test_an_endpoint_gets_each_change_signed_in_the_form_of_the_stream(client: Client, receiver: Receiver) -> None:
    made = endpoint(client, receiver.url("/good"))
    assert made["secret"].startswith("whsec_")
    assert not state(client, made)["secret"]
    acme = company(client, "Acme")
    client.post("/v1/contacts", {"given_name": "Nobody asked for contacts"})
    call = until(lambda: receiver.of("/good"), "the call arrives")[0]
    event = Webhook(made["secret"]).verify(call.body, call.headers)
    assert event == call.event
    assert event["entity_id"] == acme
    assert event["type"] == f"{COMPANY}.created"
    assert event["after"]["display_name"] == "Acme"
    assert call.headers["webhook-id"] == event["event_id"]
    logged = delivery(client, made, acme)
    assert logged["state"] == "WEBHOOK_DELIVERY_STATE_DELIVERED"
    assert (logged["attempt_count"], logged["last_status"], logged["response_excerpt"]) == (1, 200, "ok")
    client.post(f"/v1/webhook_endpoints/{made['id']}:test", {})
    until(lambda: receiver.of("/good")[-1].event["type"].endswith("WebhookEndpoint.tested"), "the test arrives")
    assert [each.event["type"].rpartition(".")[2] for each in receiver.of("/good")] == ["created", "tested"]
    assert state(client, made)["state"] == "WEBHOOK_STATE_ENABLED"
    until(lambda: state(client, made).get("last_success_time"), "success is noted")


def test_what_fails_is_tried_again_and_the_endpoint_says_so(client: Client, receiver: Receiver) -> None:
    receiver.answers["/flaky"] = plain(500)
    made = endpoint(client, receiver.url("/flaky"))
    acme = company(client, "Flaky")
    failing = until(lambda: (it := state(client, made))["state"] == "WEBHOOK_STATE_FAILING" and it, "it fails")
    assert failing["state_reason"] == "it answered 500"
    logged = delivery(client, made, acme)
    assert logged["state"] == "WEBHOOK_DELIVERY_STATE_PENDING"
    assert logged["next_attempt_time"] > logged["last_attempt_time"]
    receiver.answers["/flaky"] = plain(204)
    until(lambda: state(client, made)["state"] == "WEBHOOK_STATE_ENABLED", "it is well again")
    assert delivery(client, made, acme)["state"] == "WEBHOOK_DELIVERY_STATE_DELIVERED"
    assert len({call.headers["webhook-id"] for call in receiver.of("/flaky")}) == 1
    assert len(receiver.of("/flaky")) == 2


def test_redirects_and_private_addresses_are_not_called(client: Client, receiver: Receiver) -> None:
    receiver.answers["/moved"] = plain(302, location=receiver.url("/elsewhere"))
    moved = endpoint(client, receiver.url("/moved"))
    private = endpoint(client, "https://10.0.0.1/hook")
    acme = company(client, "Moved")
    assert delivery(client, moved, acme)["last_error"] == "it answered 302: redirects are not followed"
    assert "public internet" in delivery(client, private, acme)["last_error"]
    assert not receiver.of("/elsewhere")
    for url, says in (
        ("http://example.com/", "https"),
        ("https://example.com:22/", "port"),
        ("https://u:p@x.com/", "user"),
    ):
        answer = client.http.post("/v1/webhook_endpoints", json={"url": url})
        assert answer.status_code == 400
        assert says in answer.text
    for made in (moved, private):
        client.http.delete(f"/v1/webhook_endpoints/{made['id']}")


def test_an_endpoint_that_is_gone_is_disabled_until_it_is_enabled(client: Client, receiver: Receiver) -> None:
    receiver.answers["/gone"] = plain(410)
    made = endpoint(client, receiver.url("/gone"))
    acme = company(client, "Gone")
    disabled = until(lambda: (it := state(client, made))["state"] == "WEBHOOK_STATE_DISABLED" and it, "it is disabled")
    assert "410" in disabled["state_reason"]
    history = client.get(f"/v1/webhook_endpoints/{made['id']}:listRevisions")["revisions"]
    assert [each["revision"]["type"].rpartition(".")[2] for each in history] == ["disabled", "created"]
    company(client, "While disabled")
    receiver.answers["/gone"] = plain(200)
    client.post(f"/v1/webhook_endpoints/{made['id']}:enable", {})
    until(lambda: delivery(client, made, acme)["state"] == "WEBHOOK_DELIVERY_STATE_DELIVERED", "what waited is sent")


def test_one_that_hangs_or_never_ends_its_answer_harms_no_other(client: Client, receiver: Receiver) -> None:
    released, sent = threading.Event(), []

    def hang(_: Handler) -> None:
        released.wait(60)

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(500_000_000))
        handler.end_headers()
        for _ in range(500):
            handler.wfile.write(b"x" * 1_000_000)
            sent.append(1)

    receiver.answers |= {"/hang": hang, "/endless": endless}
    hanging, long = endpoint(client, receiver.url("/hang")), endpoint(client, receiver.url("/endless"))
    good = endpoint(client, receiver.url("/beside"))
    try:
        acme = company(client, "Hang")
        until(lambda: receiver.of("/hang"), "the one that hangs is called")
        assert delivery(client, good, acme)["state"] == "WEBHOOK_DELIVERY_STATE_DELIVERED"
        logged = delivery(client, long, acme)
        assert logged["state"] == "WEBHOOK_DELIVERY_STATE_DELIVERED"
        assert len(logged["response_excerpt"]) <= 500
        assert len(sent) < 100
        assert delivery(client, hanging, acme, "type")["attempt_count"] == 0
    finally:
        client.http.delete(f"/v1/webhook_endpoints/{hanging['id']}")
        released.set()


def test_events_are_sent_again_by_id_and_by_time_also_those_that_were_never_sent(
    client: Client, receiver: Receiver
) -> None:
    before = company(client, "Before")
    made = endpoint(client, receiver.url("/replay"))
    first = company(client, "First")
    logged = delivery(client, made, first)
    path = f"/v1/webhook_endpoints/{made['id']}:replay"
    client.post(path, {"event_ids": [logged["event_id"]]})
    until(lambda: len(receiver.of("/replay")) == 2, "it is sent again")
    assert receiver.of("/replay")[0].body == receiver.of("/replay")[1].body
    start = client.get(f"/v1/companies/{before}")["create_time"]
    client.post(path, {"start_time": start, "undelivered_only": True})
    until(lambda: receiver.of("/replay")[-1].event["entity_id"] == before, "what was never sent is")
    assert [each.event["entity_id"] for each in receiver.of("/replay")] == [first, first, before]
    client.post(path, {"start_time": start})
    until(lambda: len(receiver.of("/replay")) == 5, "all of the range is sent again")
    refused = client.http.post(path, json={"event_ids": ["018f2c6e-0000-7000-8000-000000000000"]})
    assert refused.status_code == 400


def test_a_new_secret_signs_beside_the_old_one_for_as_long_as_was_asked(client: Client, receiver: Receiver) -> None:
    made = endpoint(client, receiver.url("/rotate"))
    path = f"/v1/webhook_endpoints/{made['id']}"
    rotated = client.post(f"{path}:rotateSecret", {"overlap": "3600s"})
    assert rotated["secret"] != made["secret"]
    company(client, "Rotated")
    call = until(lambda: receiver.of("/rotate"), "the call arrives")[0]
    for secret in (made["secret"], rotated["secret"]):
        Webhook(secret).verify(call.body, call.headers)
    last = client.post(f"{path}:rotateSecret", {"overlap": "0s"})
    company(client, "Rotated again")
    call = until(lambda: len(receiver.of("/rotate")) == 2 and receiver.of("/rotate")[1], "the call arrives")
    Webhook(last["secret"]).verify(call.body, call.headers)
    for secret in (made["secret"], rotated["secret"]):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(call.body, call.headers)


def test_nothing_is_sent_that_its_maker_may_not_read(platform: Running, client: Client, receiver: Receiver) -> None:
    key = client.post("/v1/api_keys", {"display_name": "Few", "scopes": ["webhook_endpoints.*", "companies.*"]})
    few = platform.client(key["secret"], client.tenant)
    made = endpoint(few, receiver.url("/few"), types=[])
    client.post("/v1/contacts", {"given_name": "Secret"})
    acme = company(client, "Open")
    delivery(client, made, acme)
    client.http.delete(f"/v1/api_keys/{key['id']}")
    hidden = company(client, "After the key was revoked")
    marker = endpoint(client, receiver.url("/marker"))
    seen = company(client, "Marker")
    delivery(client, marker, seen)
    types = {each.event["type"] for each in receiver.of("/few")}
    assert {each.rpartition(".")[0] for each in types} <= {COMPANY, "crm.gateway.v1.WebhookEndpoint"}
    assert hidden not in json.dumps([each.event for each in receiver.of("/few")])


def test_there_is_one_row_an_endpoint_and_event(platform: Running, client: Client, receiver: Receiver) -> None:
    made = endpoint(client, receiver.url("/once"))
    companies = [company(client, f"Once {number}") for number in range(5)]
    for each in companies:
        delivery(client, made, each)
    uuid = ids.decode(made["id"])[1]
    rows = platform.rows(
        "gateway", client.tenant, "SELECT event_id FROM webhook_deliveries WHERE endpoint_id = $1", uuid
    )
    assert len(rows) == len({row["event_id"] for row in rows}) == 5
