"""A filter of events takes a record exactly where a list with the same filter shows it."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from chassis import contract
from chassis.contract import inner, is_repeated, refs
from chassis.errors import Invalid
from chassis.query import Filter
from chassis.query.operands import COMPARISONS
from chassis.rows import moment
from tests.running import Client, Running

_TEXTS: Final = [
    "Acme",
    "ACME Ltd",
    "acme%_/\\",
    "Straße",
    "İstanbul",
    "ΟΔΟΣ",
    "odos",
    "Zürich",
    "zürich \"q\" 'a'",
    "é",
]
_PATHS: Final = {
    "deal": "/crm.sales.v1.DealService/ListDeals",
    "lead": "/crm.sales.v1.LeadService/ListLeads",
    "company": "/crm.contacts.v1.CompanyService/ListCompanies",
    "call": "/crm.activities.v1.CallService/ListCalls",
}


def _bodies(kind: str, number: int) -> dict[str, Any]:
    """One of several records of a kind, each with some fields and without others."""

    def some(every: int, **fields: Any) -> dict[str, Any]:
        return fields if number % every == 0 else {}

    text, more = _TEXTS[number % len(_TEXTS)], _TEXTS[(number * 7 + 3) % len(_TEXTS)]
    named = {"title" if kind == "call" else "display_name": text}
    common = named | some(3, tags=[text, more], external_ids=[{"system": "erp", "id": str(number)}])
    money = {"currency_code": ("EUR", "USD")[number % 2], "units": str(number * 100), "nanos": number % 4 * 250_000_000}
    match kind:
        case "deal":
            close = {"year": 2026, "month": 1 + number % 12, "day": 1 + number}
            return (
                common
                | some(2, amount=money)
                | some(3, probability=number * 4)
                | some(4, expected_close_date=close, description=more)
                | some(5, source=more)
            )
        case "lead":
            return common | some(2, utm={"source": more} | some(4, medium=text)) | some(3, email=f"a{number}@b.example")
        case "company":
            reached = {"phones": [{"number": f"+4930123450{number:02}", "label": more}]}
            return common | some(2, employee_count=number) | some(4, **reached) | some(3, annual_revenue=money)
    return common | some(2, duration=f"{number}.5s") | some(3, outcome="CALL_OUTCOME_BUSY") | some(4, body=more)


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    """A tenant with records of several kinds."""
    made = platform.tenant("Event filters")
    for kind in _PATHS:
        plural = contract.load().resources[kind].plural
        made.post(f"/v1/{plural}:batchCreate", {"requests": [{kind: _bodies(kind, number)} for number in range(24)]})
    return made


def listed(client: Client, kind: str, text: str) -> list[Any]:
    """What a list with a filter shows."""
    method = contract.load().methods[_PATHS[kind]]
    request: Any = method.request(page_size=1000, filter=text)
    call: Any = client.channel.unary_unary(method.path)
    answer = call(request.SerializeToString(), metadata=(("authorization", f"Bearer {client.key}"),), timeout=20)
    found: Any = method.response.FromString(answer)
    return list(getattr(found, found.DESCRIPTOR.fields[0].name))


def comparison(chance: random.Random, kind: str, records: list[Any]) -> str:
    """A comparison that may be made of a kind, mostly with a value that some record has."""
    resource = contract.load().resources[kind].descriptor
    record = chance.choice(records)
    known = [each for each in resource.fields if each.name not in ("etag", "custom")]
    if chance.random() < 0.8:
        # What this record has, and not all have.
        said = {each.name for each, _ in record.ListFields()}
        known = [
            each for each in known if each.name in said and len({str(getattr(it, each.name)) for it in records}) > 1
        ]
    field = chance.choice(known)
    if chance.random() < 0.1:
        return f"{field.name}:*"
    path, value, operators = field.name, getattr(record, field.name), list(COMPARISONS)
    message = field.message_type.name if field.message_type is not None else ""
    if is_repeated(field):
        value, operators = chance.choice(list(value) or [None]), ["=", ":"]
    if message and (is_repeated(field) or message == "Utm"):
        parts = [each for each in inner(field).fields if each.message_type is None and not is_repeated(each)]
        if not parts:
            return f"{path}:*"
        field = chance.choice(parts)
        path, value = f"{path}.{field.name}", getattr(value, field.name, None)
    elif message == "Money" and chance.random() < 0.5:
        path, value, field = f"{path}.currency_code", value.currency_code, inner(field).fields[0]
    return f"{path} {chance.choice(operators)} {json.dumps(_literal(chance, field, value), ensure_ascii=False)}"


def _literal(chance: random.Random, field: FieldDescriptor, value: Any) -> str:
    """A value as a filter writes it: the record's own, or for a text also a part of it in another case."""
    if field.message_type is not None:
        match field.message_type.full_name:
            case "google.type.Money":
                return f"{value.units}.{value.nanos:09}"
            case "google.type.Date":
                return f"{value.year or 2026:04}-{value.month or 1:02}-{value.day or 1:02}"
            case "google.protobuf.Timestamp":
                return moment(value).isoformat().replace("+00:00", "Z")
        return str(value.ToJsonString())
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value or 1].name
    if field.type == FieldDescriptor.TYPE_BOOL:
        return str(bool(value)).lower()
    if field.type != FieldDescriptor.TYPE_STRING:
        return str(value)
    text = str(value or chance.choice(_TEXTS))
    if refs(field) or chance.random() < 0.5:
        return text
    start = chance.randrange(len(text))
    part = text[start : start + chance.randrange(5)]
    return chance.choice([part, part.upper(), part.lower(), chance.choice(_TEXTS)])


def tree(chance: random.Random, kind: str, records: list[Any], depth: int = 0) -> str:
    """Comparisons joined and turned round."""
    drawn = chance.random() if depth < 3 else 0
    if drawn < 0.4:
        return comparison(chance, kind, records)
    one = tree(chance, kind, records, depth + 1)
    if drawn < 0.6:
        return f"NOT ({one})"
    return f"({one} {chance.choice(['AND', 'OR'])} {tree(chance, kind, records, depth + 1)})"


@pytest.mark.parametrize("kind", _PATHS)
def test_a_list_and_the_events_with_the_same_filter_have_the_same_records(client: Client, kind: str) -> None:
    chance, everything = random.Random(kind), listed(client, kind, "")
    resource, answers = contract.load().resources[kind].descriptor, Counter[str]()
    assert len(everything) == 24
    for _ in range(80):
        text = tree(chance, kind, everything)
        try:
            read = Filter(text, resource, frozenset(each.name for each in resource.fields))
        except Invalid:
            with pytest.raises(grpc.RpcError) as refused:
                listed(client, kind, text)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, text
            answers["refused"] += 1
            continue
        taken = {each.id for each in everything if read.takes(each, [])}
        assert taken == {each.id for each in listed(client, kind, text)}, text
        answers["all" if len(taken) == 24 else "some" if taken else "none"] += 1
    assert answers["some"] > 10, "the filters are to tell records apart"
    assert answers["refused"] < 20
