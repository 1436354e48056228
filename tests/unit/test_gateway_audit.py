"""What the log of reads takes from a call, and how entries of several logs become one list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from crm.internal.v1 import audit_entry_pb2 as internal
from crm.type.v1.audit_entry_pb2 import AUDIT_KIND_READ, AUDIT_KIND_WRITE, AuditEntry

from chassis import ids
from chassis.contract import load
from gateway.audit.asked import NOTHING, asked_of, shown
from gateway.audit.entries import _merge, _Part, _Stand
from gateway.audit.facts import facts_of
from gateway.peer import network

CONTACTS = "/crm.contacts.v1.ContactService"


def test_what_is_logged_follows_from_the_contract() -> None:
    kinds = {method.path: facts_of(method).kind for method in load().methods.values() if not method.internal}
    logged = {path for path, kind in kinds.items() if kind == AUDIT_KIND_READ}
    assert f"{CONTACTS}/GetContact" in logged
    assert {"/crm.gateway.v1.SearchService/Search", "/crm.gateway.v1.OverviewService/GetContactOverview"} <= logged
    assert {"/crm.gateway.v1.EventService/Subscribe", "/crm.gateway.v1.AuditEntryService/ListAuditEntries"} <= logged
    assert not {"/crm.gateway.v1.LimitService/GetLimits", "/crm.sales.v1.PipelineService/GetPipeline"} & logged
    assert not any(load().methods[path].writes for path in logged)
    # No ledger tells of these.
    assert {path.rpartition("/")[2] for path, kind in kinds.items() if kind == AUDIT_KIND_WRITE} == {
        "CommitSubscription", "CreateToken", "RevertAgent",
    }  # fmt: skip


def asked(path: str, **fields: Any) -> tuple[str, list[str], str]:
    method = load().methods[path]
    return asked_of(facts_of(method), method, method.request(**fields).SerializeToString())[:3]


def test_what_a_request_asks() -> None:
    one, two = ids.new("contact"), ids.new("contact")
    assert asked(f"{CONTACTS}/GetContact", id=one) == (one, [], "")
    assert asked(f"{CONTACTS}/BatchGetContacts", ids=[one, two, one]) == ("", [one, two], "")
    found = asked(f"{CONTACTS}/ListContacts", filter='given_name = "A\x00na"', page_size=5, show_deleted=True)
    assert found == ("", [], 'filter: given_name = "Ana"; show_deleted: true')
    assert asked("/crm.gateway.v1.SearchService/Search", query="ana", types=["contact", "deal"])[2] == (
        "query: ana; types: contact, deal"
    )
    person = load().message("crm.contacts.v1.Contact")(id=one, given_name="Ana")
    assert asked(f"{CONTACTS}/UpdateContact", contact=person) == (one, [], "")
    method = load().methods[f"{CONTACTS}/GetContact"]
    assert asked_of(facts_of(method), method, b"\x0a\xff\xff") == NOTHING


def test_what_an_answer_shows() -> None:
    method = load().methods[f"{CONTACTS}/ListContacts"]
    found = [ids.new("contact") for _ in range(130)]
    people = [load().message("crm.contacts.v1.Contact")(id=each, given_name="A" * 200) for each in found]
    answer = method.response(contacts=people, next_page_token="t").SerializeToString()
    assert shown(facts_of(method), answer) == (130, tuple(found[:100]))
    search = load().methods["/crm.gateway.v1.SearchService/Search"]
    results = [load().message("crm.type.v1.SearchResult")(type="contact", id=each) for each in found[:3]]
    assert shown(facts_of(search), search.response(results=results).SerializeToString()) == (3, tuple(found[:3]))
    audit = load().methods["/crm.gateway.v1.AuditEntryService/ListAuditEntries"]
    entries = [load().message("crm.type.v1.AuditEntry")(id="no record's")]
    assert shown(facts_of(audit), audit.response(entries=entries).SerializeToString()) == (1, ())


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("192.0.2.77", "192.0.2.0/24"), ("ipv4:192.0.2.77:5151", "192.0.2.0/24"), ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("ipv6:%5B2001:db8:1:2::3%5D:99", "2001:db8:1::/48"), ("fe80::1%eth0", "fe80::/48"),
        ("unix:/tmp/x", ""), ("", ""),
    ],
)  # fmt: skip
def test_an_address_is_kept_as_its_network(peer: str, found: str) -> None:
    assert network(peer) == found


def log_of(index: int, rows: list[tuple[int, int, bool]], place: _Stand, limit: int) -> internal.ListEntriesResponse:
    """What a log with these rows, of time and number and whether they may be seen, has after a place."""
    after = [
        row
        for row in sorted(rows, reverse=True)
        if place.time is None or row[:2] < (int(place.time.timestamp()), place.number)
    ]
    answer = internal.ListEntriesResponse(ended=len(after) < limit)
    for time, number, seen in after[:limit]:
        if seen:
            entry = AuditEntry(id=f"{-time} {index} {-number}")
            entry.time.FromSeconds(time)
            answer.entries.add(entry=entry, number=number)
    if not answer.ended:
        answer.reached_time.FromSeconds(after[limit - 1][0])
        answer.reached_number = after[limit - 1][1]
    return answer


@pytest.mark.parametrize("seed", range(20))
def test_pages_of_several_logs_hold_each_entry_once_and_in_order(seed: int) -> None:
    dice = random.Random(seed)
    logs = [
        [(dice.randrange(20), number, dice.random() < dice.choice((0.2, 1))) for number in range(1, dice.randrange(40))]
        for _ in range(4)
    ]
    places = [_Stand(None, 0)] * len(logs)
    found: list[tuple[int, ...]] = []
    while any(place.number != -1 for place in places):
        size = dice.choice((1, 3, 10))
        # A log that does not answer this time.
        away = dice.randrange(len(logs)) if seed % 2 and dice.random() < 0.3 else None
        parts = [
            _Part(index, log_of(index, logs[index], place, size))
            for index, place in enumerate(places)
            if place.number != -1 and index != away
        ]
        merged = _merge(parts, size)
        assert len(merged.entries) <= size
        for index, stand in merged.places.items():
            places[index] = stand or places[index]
        found += [tuple(map(int, entry.id.split())) for entry in merged.entries]
    expected = sorted((-t, index, -n) for index, log in enumerate(logs) for t, n, seen in log if seen)
    assert (sorted(found) if seed % 2 else found) == expected
