"""A hidden field is not there, wherever a field shows or can be named; one that is read-only cannot be written."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chassis import contract
from chassis.contract import ResourceType
from chassis.errors import Failure
from tests.contract.world import field_of
from tests.integration.access.restricted import ALL, HIDDEN, READ_ONLY, House, Restricted, plural_of

# Of each kind a field to hide, and another value for it.
FIELDS: dict[str, tuple[str, Any]] = {
    "contact": ("emails", [{"address": "other@access.example", "label": "work", "primary": True}]),
    "company": ("domain", "other.access.example"),
    "lead": ("email", "other@access.example"),
    "deal": ("amount", {"currency_code": "EUR", "units": "7"}),
    "product": ("unit_price", {"currency_code": "EUR", "units": "7"}),
    "task": ("due_time", "2031-01-01T00:00:00Z"),
    "note": ("body", "other"),
    "call": ("duration", "7s"),
    "affiliation": ("role", "other"),
    "touch": ("source", "other"),
}
fields = pytest.mark.parametrize("prefix", FIELDS)


@pytest.fixture(scope="module")
def records(house: House) -> dict[str, Any]:
    """Of each kind a record with a value in the field, which was changed once."""
    return {prefix: house.make(contract.load().resources[prefix], house.me) for prefix in FIELDS}


def failed(who: Restricted, kind: ResourceType, name: str, request: dict[str, Any]) -> Failure:
    """Why a call failed."""
    with pytest.raises(Failure) as found:
        who.of(kind, name, request)
    return found.value


def shows(answer: Any, name: str) -> bool:
    """Whether a field has a value anywhere in an answer, or is named by one. An empty list is no value."""
    if isinstance(answer, dict):
        return any((key == name and bool(value)) or shows(value, name) for key, value in answer.items())
    if isinstance(answer, list):
        return any(shows(each, name) for each in answer)
    return bool(answer == name)


def camel(name: str) -> str:
    """A field's name as masks have it in JSON."""
    return re.sub("_(.)", lambda found: found[1].upper(), name)


@fields
def test_a_hidden_field_shows_in_no_answer(house: House, records: Any, prefix: str) -> None:
    kind, name, record = contract.load().resources[prefix], FIELDS[prefix][0], records[prefix]
    assert record[name]
    who, message, carried = house.who(ALL, (prefix, name, HIDDEN)), kind.descriptor.name, field_of(kind)
    key = {"id": record["id"]}
    fresh = house.make(kind, house.me)
    text = house.world.text()
    answers = {
        "Get": who.of(kind, f"Get{message}", key),
        "as_of": who.of(kind, f"Get{message}", {**key, "as_of": record["update_time"]}),
        "List": who.standard(kind, "List", {"filter": f'id = "{record["id"]}"'}),
        "BatchGet": who.standard(kind, "BatchGet", {"ids": [record["id"]]}),
        "Revisions": who.of(kind, f"List{message}Revisions", key),
        "Update": who.of(kind, f"Update{message}", {carried: {"id": fresh["id"], "tags": [text]}}),
        "BatchUpdate": who.standard(
            kind, "BatchUpdate", {"requests": [{carried: {"id": fresh["id"], "tags": [text, text]}}], "atomic": True}
        ),
        "Delete": who.of(kind, f"Delete{message}", {"id": fresh["id"]}),
        "Undelete": who.of(kind, f"Undelete{message}", {"id": fresh["id"]}),
        "Revert": who.of(kind, f"Revert{message}", {"id": fresh["id"], "revision": 1}),
    }
    shown = {call: answer for call, answer in answers.items() if shows(answer, name)}
    assert not shown
    kept = house.world.client.get(f"/v1/{kind.plural}/{fresh['id']}")
    assert kept[name] == fresh[name]


@fields
def test_a_hidden_field_cannot_be_named(house: House, records: Any, prefix: str) -> None:
    kind, (name, value), record = contract.load().resources[prefix], FIELDS[prefix], records[prefix]
    who, message, carried = house.who(ALL, (prefix, name, HIDDEN)), kind.descriptor.name, field_of(kind)
    body = house.world.body(prefix)
    before = house.state(kind)
    patch = {"id": record["id"], name: value}
    tried = {
        "filter": failed(who, kind, f"List{plural_of(kind)}", {"filter": f"{name}:*"}),
        "order_by": failed(who, kind, f"List{plural_of(kind)}", {"order_by": name}),
        "read_mask": failed(who, kind, f"Get{message}", {"id": record["id"], "read_mask": camel(name)}),
        "read_mask of a list": failed(who, kind, f"List{plural_of(kind)}", {"read_mask": camel(name)}),
        "update_mask": failed(who, kind, f"Update{message}", {carried: patch, "update_mask": camel(name)}),
        "update": failed(who, kind, f"Update{message}", {carried: patch}),
        "whole update": failed(who, kind, f"Update{message}", {carried: {**body, **patch}, "update_mask": "*"}),
        "create": failed(who, kind, f"Create{message}", {carried: {**body, name: value}}),
        "batch": failed(
            who, kind, f"BatchCreate{plural_of(kind)}", {"requests": [{carried: {**body, name: value}}], "atomic": True}
        ),
        "upsert": failed(
            who, kind, f"BatchUpsert{plural_of(kind)}", {"requests": [{carried: {**body, name: value}}], "atomic": True}
        ),
    }
    for place, failure in tried.items():
        assert failure.code.name == "INVALID_ARGUMENT", (place, failure)
        assert failure.reason_name in ("FIELD_UNKNOWN", "FILTER_UNKNOWN_FIELD", "ORDER_INVALID"), (place, failure)
    assert house.state(kind) == before


@fields
def test_a_read_only_field_is_read_and_not_written(house: House, records: Any, prefix: str) -> None:
    kind, (name, value), record = contract.load().resources[prefix], FIELDS[prefix], records[prefix]
    who, message, carried = house.who(ALL, (prefix, name, READ_ONLY)), kind.descriptor.name, field_of(kind)
    before = house.state(kind)
    read = who.of(kind, f"Get{message}", {"id": record["id"]})
    assert read[name] == record[name]
    patch = {"id": record["id"], name: value}
    for method, request in (
        (f"Update{message}", {carried: patch}),
        (f"Update{message}", {carried: patch, "update_mask": camel(name)}),
        (f"Create{message}", {carried: {**house.world.body(prefix), name: value}}),
        (f"BatchUpdate{plural_of(kind)}", {"requests": [{carried: patch}], "atomic": True}),
    ):
        failure = failed(who, kind, method, request)
        assert failure.reason_name == "PERMISSION_DENIED", (method, failure)
        assert failure.metadata["field"] == name
    assert house.state(kind) == before
    same = {"id": record["id"], name: record[name]}
    assert who.of(kind, f"Update{message}", {carried: same})["etag"] == record["etag"]


def test_a_verb_writes_no_field_that_its_caller_may_not(house: House, records: Any) -> None:
    kind = contract.load().resources["deal"]
    price = {"currency_code": "EUR", "units": "9"}
    record = {"id": house.make(kind, house.me)["id"]}
    hidden, fixed = house.who(ALL, ("deal", "amount", HIDDEN)), house.who(ALL, ("deal", "amount", READ_ONLY))
    assert failed(hidden, kind, "WinDeal", {**record, "amount": price}).reason_name == "FIELD_UNKNOWN"
    assert failed(fixed, kind, "WinDeal", {**record, "amount": price}).reason_name == "PERMISSION_DENIED"
    how = {"deal": house.world.body("deal"), "close": {"lost": {"loss_reason": "price"}}}
    rule = house.who(ALL, ("deal", "loss_reason", READ_ONLY))
    assert failed(rule, kind, "CreateDeal", how).reason_name == "PERMISSION_DENIED"
    assert failed(rule, kind, "BatchUpsertDeals", {"requests": [how]}).reason_name == "PERMISSION_DENIED"
    assert "amount" not in hidden.of(kind, "WinDeal", record)
    assert hidden.of(kind, "ReopenDeal", record)["state"] == "DEAL_STATE_OPEN"


def test_an_answer_given_again_obeys_the_rules_of_now(house: House, records: Any) -> None:
    kind, request_id = contract.load().resources["contact"], "7f3c1f0e-6d2b-4c9e-9a53-0d9a4b0c1d2e"
    request = {"contact": house.world.body("contact"), "request_id": request_id}
    first = house.who(ALL).of(kind, "CreateContact", request)
    assert first["emails"]
    again = house.who(ALL, ("contact", "emails", HIDDEN)).of(kind, "CreateContact", request)
    assert again["id"] == first["id"]
    assert not shows(again, "emails")
