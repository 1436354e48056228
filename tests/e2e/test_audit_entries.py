"""Who did, read or was refused what is on record, whichever way it came, and whoever may see it finds it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from deploy.local import control
from tests.e2e.test_cli import command
from tests.running import Client, Running, until

ENTRIES = "/v1/audit/entries"
GET = "crm.contacts.v1.ContactService/GetContact"


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    return platform.tenant("Audit")


def entries(client: Client, token: str = "", **asked: Any) -> list[dict[str, Any]]:
    """Every entry, page by page; a page that lacks a part is asked for again."""
    found: list[dict[str, Any]] = []

    def whole() -> dict[str, Any] | None:
        page = client.get(ENTRIES, **asked, page_token=token)
        return None if page["missing"] else page

    while True:
        page = until(whole, "every part answers")
        found += page["entries"]
        token = page["next_page_token"]
        if not token:
            return found


def logged(client: Client, filter: str, count: int) -> list[dict[str, Any]]:
    """The so many entries that a filter finds, once they are there: the other gateway's come within a second."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = entries(client, filter=filter)
        return len(found) >= count

    until(there, f"{count} entries of {filter}")
    assert len(found) == count, found
    return found


def call_tool(client: Client, name: str, **arguments: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    return client.post("/mcp", body)


def test_a_read_is_on_record_whichever_way_it_came(client: Client) -> None:
    made = client.post("/v1/contacts", {"given_name": "Ana", "family_name": "Recorded"})["id"]
    rest = client.http.get(f"/v1/contacts/{made}")
    client.grpc(f"/{GET}", {"id": made})
    call_tool(client, "get_contact", id=made)
    client.post("/v1/batch", {"calls": [{"method": "GET", "path": f"/v1/contacts/{made}"}]})
    found = logged(client, f'record_id = "{made}" AND method = "{GET}"', 4)
    me = client.get("/v1/me")
    for each in found:
        assert each["kind"] == "AUDIT_KIND_READ"
        assert each["principal"] == me["principal_id"]
        assert each["credential"] == me["credential_id"]
        assert (each["resource"], each["outcome"], each["network"]) == ("contact", "OK", "127.0.0.0/24")
    (one,) = [each for each in found if each["request_id"] == rest.headers["x-request-id"]]
    assert one["trace_id"] == rest.headers["x-trace-id"]
    (wrote,) = logged(client, f'record_id = "{made}" AND kind = WRITE', 1)
    assert wrote["type"] == "crm.contacts.v1.Contact.created"
    assert {"given_name", "family_name"} <= set(wrote["changed"])


def test_what_was_asked_and_how_much_came_is_on_record(client: Client) -> None:
    made = [client.post("/v1/contacts", {"display_name": f"Listed {number}"})["id"] for number in range(3)]
    client.get("/v1/contacts", filter='display_name : "Listed"')
    client.get("/v1/contacts:batchGet", ids=made)
    client.get("/v1/search", query="Listed")
    client.get(f"/v1/contacts/{made[0]}:overview")
    with client.http.stream("GET", "/v1/events:subscribe", params={"types": "crm.sales.v1.Deal"}):
        pass
    (listed,) = logged(client, "method : ListContacts", 1)
    assert (listed["query"], listed["row_count"]) == ('filter: display_name : "Listed"', 3)
    assert sorted(listed["record_ids"]) == sorted(made)
    (got,) = logged(client, f'record_ids = "{made[1]}" AND method : BatchGetContacts', 1)
    assert (got["record_ids"], got["row_count"]) == (made, 3)
    (searched,) = logged(client, 'method = "crm.gateway.v1.SearchService/Search"', 1)
    assert (searched["query"], searched["row_count"]) == ("query: Listed", 3)
    assert sorted(searched["record_ids"]) == sorted(made)
    (shown,) = logged(client, "method : GetContactOverview", 1)
    assert shown["record_id"] == made[0]
    (followed,) = logged(client, "method : Subscribe", 1)
    assert followed["query"] == "types: crm.sales.v1.Deal"


def test_a_refusal_is_on_record(platform: Running, client: Client) -> None:
    made = client.post("/v1/contacts", {"given_name": "Out of reach"})["id"]
    key = client.post("/v1/api_keys", {"display_name": "Few", "scopes": ["deals.read"]})
    few = platform.client(key["secret"], client.tenant)
    assert few.http.get(f"/v1/contacts/{made}").status_code == 403
    assert few.http.post("/v1/contacts", json={"given_name": "x"}).status_code == 403
    with pytest.raises(grpc.RpcError):
        few.grpc(f"/{GET}", {"id": made})
    assert "error" in call_tool(few, "get_contact", id=made)
    assert few.http.get("/v1/events:subscribe").status_code == 403
    assert few.http.get(ENTRIES).status_code == 403
    found = logged(client, f'kind = DENIED AND principal = "{key["id"]}"', 6)
    assert {each["outcome"] for each in found} == {"PERMISSION_DENIED"}
    assert sorted(each["method"].rpartition("/")[2] for each in found) == [
        "CreateContact", "GetContact", "GetContact", "GetContact", "ListAuditEntries", "Subscribe",
    ]  # fmt: skip
    assert sum(each["record_id"] == made for each in found) == 2


def test_a_credential_that_no_longer_holds_is_on_record(platform: Running, client: Client) -> None:
    user = client.post("/v1/users", {"display_name": "Gone"})["id"]
    key = client.post("/v1/api_keys", {"display_name": "Theirs", "scopes": ["*"], "user_id": user})
    client.post(f"/v1/users/{user}:suspend", {})
    holder = platform.client(key["secret"], client.tenant)
    until(lambda: holder.http.get("/v1/contacts").status_code == 401, "the key is refused")
    asked = f'kind = DENIED AND credential = "{key["id"]}"'
    found = until(lambda: entries(client, filter=asked), "the refusal is on record")
    assert {(each["method"].rpartition("/")[2], each["outcome"]) for each in found} == {
        ("ListContacts", "UNAUTHENTICATED")
    }


def test_whoever_reads_the_audit_is_in_it(client: Client) -> None:
    client.get(ENTRIES, filter='type = "never"')
    (found,) = logged(client, 'query : "never" AND method : ListAuditEntries AND NOT query : "query"', 1)
    assert found["query"] == 'filter: type = "never"'


def test_entries_are_found_by_each_field(client: Client) -> None:
    deal = client.post("/v1/deals", {"display_name": "Found"})["id"]
    key = "5b0b8f3e-0000-4000-8000-000000000001"
    client.http.post(f"/v1/deals/{deal}:win", json={}, headers={"idempotency-key": key})
    read = client.http.get(f"/v1/deals/{deal}")
    trace, request_id = read.headers["x-trace-id"], read.headers["x-request-id"]
    (one,) = logged(client, f'trace_id = "{trace}"', 1)
    assert entries(client, filter=f'request_id = "{request_id}"') == [one]
    (won,) = entries(client, filter=f'request_id = "{key}"')
    assert won["type"] == "crm.sales.v1.Deal.won"
    about = f'record_id = "{deal}"'
    assert [each["type"] for each in entries(client, filter=f'{about} AND type : "Deal."')] == [
        "crm.sales.v1.Deal.won", "crm.sales.v1.Deal.created",
    ]  # fmt: skip
    assert entries(client, filter=f"{about} AND changed = close_time AND kind = WRITE") == [won]
    assert entries(client, filter=f"{about} AND resource = contact") == []
    assert entries(client, filter=about, start_time=won["time"]) == [one, won]
    assert entries(client, filter=about, start_time=won["time"], end_time=one["time"]) == [won]
    assert entries(client, filter=f'{about} AND time >= "{one["time"]}"') == [one]
    for wrong, reason in (("no_such = 1", "FILTER_UNKNOWN_FIELD"), ("kind = NONE", "FILTER_INVALID")):
        error = client.http.get(ENTRIES, params={"filter": wrong}).json()["error"]
        assert error["details"][0]["reason"] == reason
    assert client.http.get(ENTRIES, params={"page_token": "forged"}).status_code == 400


def test_pages_under_writes_hold_what_one_scan_holds(platform: Running) -> None:
    client = platform.tenant("Audit pages")
    for number in range(10):
        client.post("/v1/contacts", {"display_name": f"Person {number}"})
        client.post("/v1/deals", {"display_name": f"Deal {number}"})
        client.get("/v1/contacts", page_size=1)
    logged(client, 'NOT method : "ListAuditEntries" AND (resource = contact OR resource = deal)', 3 * 10)
    scan = entries(client, filter='NOT method : "ListAuditEntries"')
    assert [each["time"] for each in scan] == sorted((each["time"] for each in scan), reverse=True)
    stop = threading.Event()

    def write() -> None:
        other = platform.client(client.key, client.tenant)
        while not stop.is_set():
            other.post("/v1/leads", {"given_name": "Meanwhile"})
            other.get("/v1/leads", page_size=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for size in (2, 7, 40):
            paged = entries(client, page_size=size, filter='NOT method : "ListAuditEntries"')
            assert len({each["id"] for each in paged}) == len(paged)
            known = {each["id"] for each in scan}
            assert [each for each in paged if each["id"] in known] == scan
    finally:
        stop.set()
        writer.join()


def test_a_part_that_is_down_is_named_and_its_entries_come_later(platform: Running) -> None:
    client = platform.tenant("Audit in parts")
    contact = client.post("/v1/contacts", {"given_name": "Here"})["id"]
    deal = client.post("/v1/deals", {"display_name": "Away"})["id"]
    control.hold(platform.state, "sales")
    try:
        page = client.get(ENTRIES, filter="kind = WRITE", page_size=1)
        assert [each["part"] for each in page["missing"]] == ["sales"]
        assert page["entries"][0]["record_id"] == contact
    finally:
        control.release(platform.state)
    rest = entries(client, filter="kind = WRITE", page_size=1, token=page["next_page_token"])
    assert deal in [each["record_id"] for each in rest]


def test_a_process_that_stops_in_order_loses_no_read(platform: Running) -> None:
    client = platform.tenant("Audit kept")
    contact = client.post("/v1/contacts", {"given_name": "Kept"})["id"]
    # A connection each, so that every process of the gateway answers some; the last of them are not written yet.
    readers = [platform.client(client.key, client.tenant) for _ in range(4)]
    seen = {reader.http.get(f"/v1/contacts/{contact}").headers["x-request-id"] for _ in range(10) for reader in readers}
    control.restart(platform.state, "gateway")
    found = logged(client, f'record_id = "{contact}" AND kind = READ', len(seen))
    assert {each["request_id"] for each in found} == seen


def test_who_may_not_see_a_record_or_field_does_not_learn_of_it_here(platform: Running) -> None:
    owner = platform.tenant("Audit walls")
    role = owner.post("/v1/roles", {
        "display_name": "Auditor", "permissions": ["audit.read", "contacts.read", "deals.read"],
        "default_visibility": "VISIBILITY_ALL",
        "visibility": [{"resource": "deal", "visibility": "VISIBILITY_OWN"}],
        "field_rules": [{"resource": "contact", "field": "job_title", "access": "FIELD_ACCESS_HIDDEN"}],
    })["id"]  # fmt: skip
    user = owner.post("/v1/users", {"display_name": "Auditor", "role_ids": [role]})["id"]
    key = owner.post("/v1/api_keys", {"display_name": "Key", "scopes": ["*"], "user_id": user})
    auditor = platform.client(key["secret"], owner.tenant)
    contact = owner.post("/v1/contacts", {"given_name": "Ana", "job_title": "Spy"})["id"]
    owner.get("/v1/contacts", filter='job_title = "Spy"')
    other = owner.post("/v1/deals", {"display_name": "Other's"})["id"]
    own = owner.post("/v1/deals", {"display_name": "Own", "owner_id": user})["id"]
    owner.post("/v1/leads", {"given_name": "Not for auditors"})
    for each in (other, own):
        owner.get(f"/v1/deals/{each}")
    logged(owner, "method : GetDeal", 2)
    found = entries(auditor)
    assert {each["record_id"] for each in found if each["kind"] == "AUDIT_KIND_WRITE"} == {contact, own}
    (wrote,) = [each for each in found if each["record_id"] == contact]
    assert "given_name" in wrote["changed"]
    assert "job_title" not in json.dumps(found)
    assert "Spy" not in json.dumps(found)
    assert "GetDeal" not in json.dumps(found)
    for field in ("changed = job_title", 'query : "Spy"'):
        assert auditor.http.get(ENTRIES, params={"filter": field}).status_code == 400
    assert any("job_title" in each["changed"] for each in entries(owner, filter="kind = WRITE"))


def test_tenants_see_their_own_entries_alone(platform: Running, client: Client) -> None:
    made = client.post("/v1/contacts", {"given_name": "Behind the wall"})["id"]
    client.get(f"/v1/contacts/{made}")
    logged(client, f'record_id = "{made}"', 2)
    other = platform.tenant("Audit next door")
    assert entries(other, filter=f'record_id = "{made}"') == []
    page = client.get(ENTRIES, page_size=1)
    assert other.http.get(ENTRIES, params={"page_token": page["next_page_token"], "page_size": 1}).status_code == 400
    rows = platform.rows("gateway", client.tenant, "SELECT position FROM audit_reads ORDER BY position")
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))


@pytest.fixture
def rapport(platform: Running, client: Client) -> Callable[..., str]:
    start, environment = command(client, platform)

    def run(*arguments: str) -> str:
        done = subprocess.run([*start, *arguments], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_command_line_lists_and_exports(client: Client, rapport: Callable[..., str]) -> None:
    made = client.post("/v1/contacts", {"given_name": "Exported"})["id"]
    client.get("/v1/contacts", filter='given_name = "Exported"')
    logged(client, f'record_ids = "{made}"', 1)
    assert "write Contact.created" in rapport("audit", "list", "--record", made)
    lines = [json.loads(line) for line in rapport("audit", "export", "--record", made).splitlines()]
    assert [each["kind"] for each in lines] == ["AUDIT_KIND_READ", "AUDIT_KIND_WRITE"]
    table = rapport("audit", "export", "--record", made, "--format", "csv").splitlines()
    assert table[0].startswith("time,kind,principal,")
    assert len(table) == 3
    everything = [json.loads(line)["id"] for line in rapport("audit", "export").splitlines()]
    assert {each["id"] for each in lines} < set(everything)
    assert len(set(everything)) == len(everything)
