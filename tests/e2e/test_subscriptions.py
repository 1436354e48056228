"""Places that the server keeps, filters, and every record before its changes."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections import defaultdict
from typing import Any

from chassis import ids
from tests.e2e.stream import events, following
from tests.e2e.test_cli import command
from tests.running import Client, Running, until

COMPANY = "crm.contacts.v1.Company"


def company(client: Client, name: str) -> str:
    """The id of a new company."""
    made: str = client.post("/v1/companies", {"display_name": name})["id"]
    return made


def ids_of(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The records of events."""
    return [event["entity_id"] for _, event in found]


def test_a_subscription_goes_on_after_what_was_committed_and_never_back(platform: Running) -> None:
    client = platform.tenant("Kept")
    made = client.post("/v1/subscriptions", {"display_name": "billing", "types": [f"{COMPANY}.created"]})
    path = f"/v1/subscriptions/{made['id']}"
    companies = [company(client, f"Kept {number}") for number in range(4)]
    client.patch(f"/v1/companies/{companies[0]}", {"display_name": "Changed: not asked for"})
    with following(client, subscription_id=made["id"]) as stream:
        found = events(stream, 4)
    assert ids_of(found) == companies
    kept = client.post(f"{path}:commit", {"replay_id": found[1][0]})
    assert kept["etag"] == made["etag"]
    assert kept["cursor"]
    for earlier in (found[1][0], found[0][0]):
        assert client.post(f"{path}:commit", {"replay_id": earlier}) == kept
    with following(client, subscription_id=made["id"]) as stream:
        assert ids_of(events(stream, 2)) == companies[2:]
    client.post(f"{path}:seek", {"replay_id": found[0][0]})
    with following(client, subscription_id=made["id"]) as stream:
        assert ids_of(events(stream, 3)) == companies[1:]
    client.post(f"{path}:seek", {"start_time": made["create_time"]})
    with following(client, subscription_id=made["id"]) as stream:
        assert ids_of(events(stream, 4)) == companies
    for query, status in (
        ({"subscription_id": made["id"], "types": COMPANY}, 400),
        ({"subscription_id": "subscription_01m88vhbkqe7wt8ctn5wrsbfn6"}, 404),
    ):
        assert client.http.get("/v1/events:subscribe", params=query).status_code == status
    other = platform.tenant("Kept elsewhere")
    assert other.http.get("/v1/events:subscribe", params={"subscription_id": made["id"]}).status_code == 404


def test_the_command_line_keeps_the_place_of_what_it_printed(platform: Running) -> None:
    client = platform.tenant("Command")
    program, environment = command(client, platform)

    def rapport(*arguments: str) -> bytes:
        done = subprocess.run([*program, *arguments, "--json"], env=environment, capture_output=True, check=True)
        return done.stdout

    made = json.loads(rapport("create", "subscription", "display_name=tail", f'types=["{COMPANY}.created"]'))
    companies = [company(client, f"Printed {number}") for number in range(3)]
    tail = ("events", "tail", "--subscription", made["id"], "--limit")
    lines = rapport(*tail, "2").splitlines() + rapport(*tail, "1").splitlines()
    assert [json.loads(line)["entity_id"] for line in lines] == companies


def test_only_changes_of_the_fields_that_were_named_come(platform: Running) -> None:
    client = platform.tenant("Fields")
    acme = client.post("/v1/companies", {"display_name": "Acme"})
    query = {"types": COMPANY, "changed_fields": "domain", "start_time": acme["create_time"]}
    client.patch(f"/v1/companies/{acme['id']}", {"display_name": "Acme Ltd"})
    client.patch(f"/v1/companies/{acme['id']}", {"domain": "acme.example"})
    with following(client, **query) as stream:
        (_, event), *_ = events(stream, 1)
    assert event["revision"] == "3"
    refused = client.http.get("/v1/events:subscribe", params=query | {"changed_fields": "domains"})
    assert refused.status_code == 400
    assert "did you mean 'domain'" in refused.text


def test_a_filter_is_asked_about_the_record_after_the_change(platform: Running) -> None:
    client = platform.tenant("Filters")
    wanted = {"types": COMPANY, "filter": 'employee_count >= 50 AND changed:"employee_count"'}
    kept = client.post("/v1/subscriptions", {"display_name": "large", **wanted, "types": [COMPANY]})
    large = client.post("/v1/companies", {"display_name": "Large", "employee_count": 100})
    small = client.post("/v1/companies", {"display_name": "Small", "employee_count": 5})
    client.patch(f"/v1/companies/{large['id']}", {"display_name": "Larger"})
    client.patch(f"/v1/companies/{small['id']}", {"employee_count": 50})
    expected = [(large["id"], "1"), (small["id"], "2")]
    for query in (
        wanted | {"start_time": kept["create_time"]},
        {"subscription_id": kept["id"]},
        wanted | {"snapshot": "true"},
    ):
        with following(client, **query) as stream:
            found = {event["entity_id"]: event["revision"] for _, event in events(stream, 2)}
        assert found == (dict(expected) if "snapshot" not in query else {large["id"]: "2", small["id"]: "2"})
    program, environment = command(client, platform)
    tail = ("events", "tail", "--type", COMPANY, "--filter", wanted["filter"], "--since", kept["create_time"])
    done = subprocess.run([*program, *tail, "--limit", "2", "--json"], env=environment, capture_output=True, check=True)
    assert [json.loads(line)["entity_id"] for line in done.stdout.splitlines()] == [each for each, _ in expected]


def test_a_filter_that_no_list_would_take_is_refused_at_opening(platform: Running) -> None:
    client = platform.tenant("Bad filters")
    for types, text, reason in (
        ([COMPANY], "employes = 1", "FILTER_UNKNOWN_FIELD"),
        ([COMPANY], "changed:employes", "FILTER_UNKNOWN_FIELD"),
        ([COMPANY, "crm.sales.v1.Deal"], "employee_count = 1", "FILTER_UNKNOWN_FIELD"),
        ([], "employee_count = 1", "FILTER_UNKNOWN_FIELD"),
        ([COMPANY], "employee_count =", "FILTER_INVALID"),
        ([COMPANY], "changed < 3", "FILTER_INVALID"),
    ):
        fields = {"types": types, "filter": text}
        for refused in (
            client.http.get("/v1/events:subscribe", params=fields),
            client.http.post("/v1/subscriptions", json={"display_name": "bad", **fields}),
            client.http.post("/v1/webhook_endpoints", json={"url": "https://example.com/", **fields}),
        ):
            assert refused.status_code == 400, refused.text
            details = {each["@type"].rpartition(".")[2]: each for each in refused.json()["error"]["details"]}
            assert details["ErrorInfo"]["reason"] == reason
            assert details["BadRequest"]["field_violations"][0]["field"].endswith("filter")


def churn(client: Client, companies: list[str], stop: threading.Event, seed: int) -> None:
    """Makes, changes and deletes companies until ``stop``."""
    chance = random.Random(seed)
    writer = Client(client.url, client.address, client.key, client.tenant)
    while not stop.is_set():
        what = chance.random()
        if what < 0.3 or not companies:
            companies.append(company(writer, f"Churn {chance.random()}"))
        elif what < 0.9:
            writer.http.patch(f"/v1/companies/{chance.choice(companies)}", json={"display_name": f"{chance.random()}"})
        else:
            writer.http.delete(f"/v1/companies/{companies.pop(chance.randrange(len(companies)))}")


def test_records_come_first_and_then_every_change_since_none_missing_none_twice(platform: Running) -> None:
    client = platform.tenant("Snapshot")
    for _ in range(2):
        batch = [{"company": {"display_name": f"Old {number}"}} for number in range(700)]
        client.post("/v1/companies:batchCreate", {"requests": batch})
    stop, lists = threading.Event(), [[], []]  # type: ignore[var-annotated]
    writers = [
        threading.Thread(target=churn, args=(client, companies, stop, seed)) for seed, companies in enumerate(lists)
    ]
    for writer in writers:
        writer.start()
    seen: dict[str, list[int]] = defaultdict(list)
    snapshots, places = 0, []
    try:
        until(lambda: sum(map(len, lists)) > 5, "writing has begun")
        with following(client, types=COMPANY, snapshot="true") as stream:
            last = ""
            for message in stream:
                assert message.name != "end", message
                if message.event is not None:
                    shown = message.event["type"].endswith(".snapshot")
                    snapshots += shown
                    assert not (shown and seen[message.event["entity_id"]]), "a record shows once, before its changes"
                    seen[message.event["entity_id"]].append(int(message.event["revision"]))
                    places.append(message.replay_id)
                elif not last:
                    stop.set()
                    for writer in writers:
                        writer.join(30)
                    last = company(client, "The last one")
                if message.event is not None and message.event["entity_id"] == last:
                    break
    finally:
        stop.set()
    assert snapshots >= 1_400
    assert not any(places[:snapshots]), "whoever is cut off in the snapshot begins anew"
    for entity, revisions in seen.items():
        assert revisions == list(range(revisions[0], revisions[0] + len(revisions))), f"{entity}: {revisions}"
    records = _records(platform, client)
    assert {entity: revisions[-1] for entity, revisions in seen.items()} == {
        entity: revision for entity, (revision, _) in records.items() if entity in seen
    }
    assert {entity for entity, (_, deleted) in records.items() if not deleted} <= seen.keys()


def _records(platform: Running, client: Client) -> dict[str, tuple[int, bool]]:
    """Each company's last revision, and whether it is deleted."""
    rows = platform.rows("contacts", client.tenant, "SELECT id, revision, delete_time FROM companies")
    return {ids.encode("company", row["id"]): (row["revision"], row["delete_time"] is not None) for row in rows}
