"""Many calls in one request: each answered as if it had come by itself, reads together, writes in order."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from crm.gateway.v1 import batch_pb2

from chassis.context import Call, Caller
from gateway.batch import Batches
from tests.running import Client, Running

Json = dict[str, Any]


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    """An administrator."""
    return platform.tenant("Batch")


def contact(client: Client, name: str = "Ana") -> Json:
    return client.post("/v1/contacts", {"given_name": name})


def batch(client: Client, *calls: Json) -> list[Json]:
    """The replies to these calls."""
    replies: list[Json] = client.post("/v1/batch", {"calls": list(calls)})["replies"]
    assert len(replies) == len(calls)
    return replies


def reading(path: str) -> Json:
    return {"method": "GET", "path": path}


def renaming(record: Json, name: str, **headers: str) -> Json:
    path = f"/v1/contacts/{record['id']}"
    return {"method": "PATCH", "path": path, "body": {"given_name": name}, "headers": headers}


def test_a_read_sees_the_writes_before_it_and_none_after_it(client: Client) -> None:
    record = contact(client)
    read = reading(f"/v1/contacts/{record['id']}?read_mask=given_name")
    first, changed, second, again, third = batch(
        client, read, renaming(record, "Eva"), read, renaming(record, "Iva"), read
    )
    assert [each["body"]["given_name"] for each in (first, changed, second, again, third)] == [
        "Ana", "Eva", "Eva", "Iva", "Iva",
    ]  # fmt: skip
    assert client.get(f"/v1/contacts/{record['id']}")["given_name"] == "Iva"


@pytest.mark.parametrize(
    "call",
    [
        {"method": "GET", "path": "/v1/contacts?page_size=3&order_by=create_time"},
        {"method": "GET", "path": "/v1/contacts?filter=given_nam%20%3D%20%22Ana%22"},
        {"method": "GET", "path": "/v1/contacts/contact_01h455vb4pex5vsknk084sn02q"},
        {"method": "GET", "path": "/v1/contcts"},
        {"method": "PUT", "path": "/v1/contacts", "body": {}},
        {"method": "POST", "path": "/v1/contacts", "body": {"given_nam": "Ana"}},
        {"method": "POST", "path": "/v1/contacts"},
        {"method": "POST", "path": "/v1/deals", "body": {"display_name": 5}},
        {"method": "GET", "path": "/v1/reports/pipeline"},
    ],
    ids=lambda call: f"{call['method']} {call['path']}",
)
def test_it_is_answered_as_by_itself(client: Client, call: Json) -> None:
    contact(client)
    alone = client.http.request(call["method"], call["path"], **({"json": call["body"]} if "body" in call else {}))
    (reply,) = batch(client, call)
    assert (reply["status"], reply["body"]) == (alone.status_code, alone.json())
    assert reply["headers"].items() <= alone.headers.items()
    assert ("allow" in reply["headers"]) == ("allow" in alone.headers)


def test_conditions_and_request_ids_go_with_each_call(client: Client) -> None:
    record, key = contact(client), str(uuid4())
    made = {
        "method": "POST",
        "path": "/v1/companies",
        "body": {"display_name": "Acme"},
        "headers": {"Idempotency-Key": key},
    }
    changed, stale, first, again = batch(
        client, renaming(record, "Eva", **{"If-Match": record["etag"]}),
        renaming(record, "Iva", **{"if-match": record["etag"]}), made, made,
    )  # fmt: skip
    assert (changed["status"], changed["headers"]["etag"]) == (200, '"2"')
    assert (stale["status"], stale["body"]["error"]["status"]) == (412, "ABORTED")
    assert first == again
    assert first["body"]["id"].startswith("company_")


def test_each_call_needs_its_own_permission(platform: Running, client: Client) -> None:
    record = contact(client)
    secret = client.post("/v1/api_keys", {"display_name": "few", "scopes": ["contacts.read"]})["secret"]
    few = platform.client(secret, client.tenant)
    refused, read = batch(few, renaming(record, "Eva"), reading(f"/v1/contacts/{record['id']}"))
    assert (refused["status"], refused["body"]["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert read["body"]["given_name"] == "Ana"
    assert Client(client.url, client.address, "", client.tenant).http.post("/v1/batch", json={}).status_code == 401


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ({"method": "POST", "path": "/v1/batch", "body": {"calls": []}}, "called by themselves"),
        ({"method": "GET", "path": "/v1/events:subscribe"}, "called by themselves"),
        ({"method": "GET", "path": "/v1/contacts", "headers": {"Authorization": "Bearer rap_1"}}, "If-Match"),
        ({"method": "POST", "path": "/v1/companies", "body": {"employee_count": 2**53 + 1}}, "stands in quotes"),
        ({"method": "GET", "path": "/readyz"}, "no such path"),
    ],
)
def test_what_does_not_belong_in_a_batch_is_refused_and_the_rest_is_done(client: Client, call: Json, what: str) -> None:
    refused, read = batch(client, call, reading("/v1/contacts?page_size=1"))
    assert 400 <= refused["status"] < 500
    assert what in refused["body"]["error"]["message"]
    assert read["status"] == 200


@pytest.mark.parametrize("calls", [[], [reading("/v1/contacts")] * 101, [{"method": "TRACE", "path": "/"}], [{}]])
def test_a_batch_that_is_none_is_refused_as_a_whole(client: Client, calls: list[Json]) -> None:
    answer = client.http.post("/v1/batch", json={"calls": calls})
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_what_the_deadline_does_not_reach_is_not_done() -> None:
    call = Call(Caller(UUID(int=1), "user", frozenset({"*"})), "", time.monotonic())
    batches = object.__new__(Batches)
    batches.door = None  # type: ignore[assignment]  # nothing may go through it
    calls = [batch_pb2.BatchCall(method=each, path="/v1/contacts") for each in ("GET", "POST")]
    answer = await batches.Batch(batch_pb2.BatchRequest(calls=calls), call)
    assert [each.status for each in answer.replies] == [504, 504]
