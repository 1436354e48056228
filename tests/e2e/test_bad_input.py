"""Wrong input gets a clear error that names the place, writes nothing and loses nothing."""

from __future__ import annotations

import http.client
import json
from typing import Any

import grpc
import httpx2
import pytest

from chassis.contract import load
from tests.running import Client, Running

CONTACTS = "/v1/contacts"
GOOD = {"given_name": "Ana"}
UNKNOWN_ID = "contact_01h455vb4pex5vsknk084sn02q"


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    return platform.tenant("Bad input")


@pytest.fixture(autouse=True)
def nothing_is_written(platform: Running, client: Client) -> Any:
    """Every test of this file must leave contacts and their ledger as they were."""
    counts = "SELECT (SELECT count(*) FROM contacts) AS rows, (SELECT count(*) FROM ledger) AS events"
    before = platform.rows("contacts", client.tenant, counts)
    yield
    assert platform.rows("contacts", client.tenant, counts) == before


def check_error(answer: httpx2.Response, status: int, reason: str, said: str) -> None:
    """The answer is an error of this kind, and its message says this."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == status
    assert said in error["message"], error["message"]
    info = next(each for each in error["details"] if each["@type"].endswith("ErrorInfo"))
    assert info["reason"] == reason
    assert answer.headers["x-trace-id"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (b"{", "BODY_MALFORMED", ""),
        (b"", "FIELD_REQUIRED", "contact"),
        (b"[1]", "BODY_MALFORMED", "object"),
        (b'{"given_name": "a", "given_name": "b"}', "BODY_MALFORMED", "given_name"),
        (b'{"given_nam": "a"}', "FIELD_UNKNOWN", "given_nam"),
        (b'{"given_name": 7}', "FIELD_INVALID", "given_name"),
        (b'{"emails": {"address": "a@b.example"}}', "FIELD_INVALID", "emails"),
        (b'{"emails": [{"address": "a@b.example", "labl": "x"}]}', "FIELD_UNKNOWN", "labl"),
        (b'{"emails": [{"address": "none"}]}', "FIELD_INVALID", "emails[0].address"),
        (b'{"phones": [{"number": "12"}]}', "FIELD_INVALID", "phones[0].number"),
        (b'{"phones": [{"number": "+55 11 98765 4321", "region": "Brazil"}]}', "FIELD_INVALID", "phones[0].region"),
        (b'{"given_name": "a\\u0000b"}', None, "given_name"),
        (b'{"given_name": "\\ud800"}', None, "given_name"),
        (b'{"given_name": "\xff"}', "BODY_MALFORMED", "UTF-8"),
        (b'{"given_name": "a", "custom": {"tier": "gold"}}', "CUSTOM_FIELD_UNKNOWN", "tier"),
        (b'{"custom": {"tier": 1e400}}', None, ""),
        (b'{"owner_id": "contact_01h455vb4pex5vsknk084sn02q"}', "ID_INVALID", "owner_id"),
        (b'{"owner_id": "nobody"}', "ID_INVALID", "owner_id"),
        (b'{"given_name": "a", "time_zone": "Mars/Olympus"}', None, "time_zone"),
        (b'{"tags": ["x", null]}', "FIELD_INVALID", "tags"),
        (b"{}", "FIELD_REQUIRED", "a contact needs a name"),
        (b'{"given_name": "' + b"x" * 201 + b'"}', "FIELD_INVALID", "given_name"),
        (b'{"custom": ' + b'{"a":' * 100 + b"1" + b"}" * 101, None, ""),
        (b"[" * 100_000, "BODY_MALFORMED", ""),
    ],
)
def test_a_wrong_body_is_refused(client: Client, body: bytes, reason: str | None, said: str) -> None:
    answer = client.http.post(CONTACTS, content=body, headers={"Content-Type": "application/json"})
    found = next(each["reason"] for each in answer.json()["error"]["details"] if "reason" in each)
    check_error(answer, 400, reason or found, said)


@pytest.mark.parametrize(
    ("query", "reason", "said"),
    [
        ("page_size=-1", "FIELD_INVALID", "page_size"),
        ("page_size=many", "FIELD_INVALID", "page_size"),
        ("page_size=99999999999999999999", "FIELD_INVALID", "page_size"),
        ("pagesize=1", "FIELD_UNKNOWN", "pagesize"),
        ("show_deleted=maybe", "FIELD_INVALID", "show_deleted"),
        ("page_token=forged", "PAGE_TOKEN_INVALID", "page_token"),
        ("page_token=" + "A" * 3000, "PAGE_TOKEN_INVALID", "page_token"),
        ("filter=nope%20%3D%201", "FILTER_UNKNOWN_FIELD", "nope"),
        ("filter=(((", "FILTER_INVALID", "filter"),
        ("filter=" + "(" * 1500, "FILTER_INVALID", "filter"),
        ("order_by=nope", "ORDER_INVALID", "nope"),
        ("order_by=id;DROP%20TABLE%20contacts", "ORDER_INVALID", "order_by"),
        ("read_mask=nope", "FIELD_UNKNOWN", "nope"),
    ],
)
def test_a_wrong_query_is_refused(client: Client, query: str, reason: str, said: str) -> None:
    check_error(client.http.get(f"{CONTACTS}?{query}"), 400, reason, said)


def test_a_huge_page_is_the_largest_one(client: Client) -> None:
    assert client.get(CONTACTS, page_size=1_000_000) == {"contacts": [], "next_page_token": ""}


@pytest.mark.parametrize("name", ["CALL_DIRECTION_SIDEWAYS", "inbound", ""])
def test_an_unknown_enum_name_is_refused(client: Client, name: str) -> None:
    answer = client.http.post("/v1/calls", json={"title": "x", "direction": name})
    check_error(answer, 400, "FIELD_INVALID", "direction")


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        (f"{CONTACTS}/{UNKNOWN_ID}", 404, "NOT_FOUND"),
        (f"{CONTACTS}/company_01h455vb4pex5vsknk084sn02q", 400, "ID_INVALID"),
        (f"{CONTACTS}/1", 400, "ID_INVALID"),
        (f"{CONTACTS}/contact_8zzzzzzzzzzzzzzzzzzzzzzzzz", 400, "ID_INVALID"),
        ("/v1/nothing", 404, "METHOD_UNKNOWN"),
        ("/v2/contacts", 404, "METHOD_UNKNOWN"),
        ("/v1//contacts", 404, "METHOD_UNKNOWN"),
        ("/v1/contacts/../leads", 404, "METHOD_UNKNOWN"),
        ("/crm.internal.v1.LedgerService/ReadChanges", 404, "METHOD_UNKNOWN"),
    ],
)
def test_a_wrong_path_is_refused(client: Client, path: str, status: int, reason: str) -> None:
    # As it stands: an HTTP client would clean the path first.
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {client.key}"})
    answer = connection.getresponse()
    check_error(
        httpx2.Response(answer.status, headers=dict(answer.getheaders()), content=answer.read()), status, reason, ""
    )
    connection.close()


def test_a_verb_that_a_path_does_not_have_is_refused(client: Client) -> None:
    check_error(client.http.put(CONTACTS, json=GOOD), 405, "HTTP_METHOD_NOT_ALLOWED", "")


def test_a_body_that_is_no_json_is_refused(client: Client) -> None:
    answer = client.http.post(CONTACTS, content=b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"})
    check_error(answer, 415, "MEDIA_TYPE_UNSUPPORTED", "application/json")


def test_a_body_of_ten_megabytes_is_refused(client: Client) -> None:
    body = json.dumps({"description": "x" * 10_000_000}).encode()
    answer = client.http.post(CONTACTS, content=body, headers={"Content-Type": "application/json"})
    check_error(answer, 413, "TOO_LARGE", "")


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer rap_wrong", "Basic YTpi", "Bearer " + "x" * 5000])
def test_a_call_without_a_valid_key_is_refused(client: Client, key: str) -> None:
    answer = httpx2.get(client.url + CONTACTS, headers={"Authorization": key} if key else {})
    check_error(answer, 401, "UNAUTHENTICATED", "")


def test_a_wrong_precondition_is_told_by_where_it_stood(platform: Running) -> None:
    other = platform.tenant("Preconditions")
    made = other.post(CONTACTS, GOOD)
    path = f"{CONTACTS}/{made['id']}"
    body = other.http.patch(path, json={"given_name": "B", "etag": '"7"'})
    check_error(body, 409, "ETAG_MISMATCH", '"1"')
    header = other.http.patch(path, json={"given_name": "B"}, headers={"If-Match": '"7"'})
    check_error(header, 412, "ETAG_MISMATCH", '"1"')
    assert other.get(path) == made


def test_a_request_id_belongs_to_one_message(platform: Running) -> None:
    other = platform.tenant("Request ids")
    key = {"Idempotency-Key": "6f9d0c9e-6a2f-4b8a-9b1e-3a1f6f0c2d11"}
    first = other.http.post(CONTACTS, json=GOOD, headers=key)
    assert other.http.post(CONTACTS, json=GOOD, headers=key).json() == first.json()
    check_error(
        other.http.post(CONTACTS, json={"given_name": "B"}, headers=key), 400, "REQUEST_ID_REUSED", "request_id"
    )
    bad = other.http.post(CONTACTS, json=GOOD, headers={"Idempotency-Key": "again"})
    check_error(bad, 400, "FIELD_INVALID", "")


_ALLOWED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
_GARBAGE = [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x08\x96\x01", b"\x0b" * 200, b"\x00" * 50]


@pytest.mark.parametrize(
    "path", [method.path for method in load().methods.values() if not method.streams and not method.internal]
)
def test_bytes_that_are_no_message_never_look_like_a_fault_of_ours(client: Client, path: str) -> None:
    with grpc.insecure_channel(client.address) as channel:
        call: Any = channel.unary_unary(path)
        for garbage in _GARBAGE:
            code, said = _outcome(call, client, garbage)
            assert code in _ALLOWED, f"{path} {garbage!r}: {code} {said}"
            assert "Error" not in said


def _outcome(call: Any, client: Client, request: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        call(request, metadata=(("authorization", f"Bearer {client.key}"),), timeout=10)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("kind", ["contacts", "leads"])
def test_a_name_that_is_made_of_something_longer_is_as_long_as_names_may_be(client: Client, kind: str) -> None:
    long = {"external_ids": [{"system": "old", "id": "7" * 256}]}
    answer = client.http.post(f"/v1/{kind}", params={"validate_only": "true"}, json=long)
    assert answer.status_code == 200, answer.text
    assert answer.json()["display_name"] == "7" * 200
