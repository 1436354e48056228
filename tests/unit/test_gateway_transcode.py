"""JSON and HTTP become requests strictly: what is wrong is refused with its place, and nothing is dropped."""

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from chassis.contract import ResourceType, descriptor_of, inner, load
from chassis.errors import Failure, Invalid
from gateway.contract import routes
from gateway.errors import http_status
from gateway.transcode import BODY_LIMIT, HttpCall, Transcoder
from gateway.transcode.pages import records_of
from gateway.transcode.reader import Reader
from gateway.transcode.writer import Writer

UUID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
codec = Transcoder()


def ask(verb: str, path: str, body: Any = None, query: str = "", **headers: str) -> Any:
    """The request that a call becomes; `body` is bytes as they are, or a value to send as JSON."""
    route, values = routes().find(verb, path)
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named.setdefault("content-type", "application/json")
    data = codec.request(route, HttpCall(values, query, named, raw))
    return route.method.request.FromString(data)


def refusal(*arguments: Any, **more: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        ask(*arguments, **more)
    return caught.value


def test_path_query_body_and_headers_meet_in_one_request() -> None:
    request = ask(
        "POST",
        "/v1/contacts",
        {"given_name": "Ana", "emails": [{"address": "ana@example.com"}], "custom": {"a": [1, {"b": None}]}},
        "validate_only=true&occur_time=2026-01-01T00:00:00%2B02:00",
        idempotency_key=UUID,
    )
    assert request.contact.given_name == "Ana"
    assert request.contact.emails[0].address == "ana@example.com"
    assert request.validate_only
    assert request.occur_time.ToJsonString() == "2025-12-31T22:00:00Z"
    assert request.request_id == UUID
    assert json_format.MessageToDict(request.contact.custom) == {"a": [1, {"b": None}]}


def test_lists_repeat_and_masks_name_fields() -> None:
    assert list(ask("GET", "/v1/contacts:batchGet", query="ids=a&ids=b").ids) == ["a", "b"]
    many = "&".join(f"ids=contact_{number}" for number in range(1000))
    assert len(ask("GET", "/v1/contacts:batchGet", query=many).ids) == 1000
    request = ask("GET", "/v1/contacts", query="read_mask=id,display_name&page_size=7&show_deleted=true")
    assert list(request.read_mask.paths) == ["id", "display_name"]
    assert (request.page_size, request.show_deleted) == (7, True)
    request = ask("GET", "/v1/contacts", query="read_mask=displayName,custom.someKey")
    assert list(request.read_mask.paths) == ["display_name", "custom.someKey"]


def test_an_empty_parameter_is_set_and_an_absent_one_is_not() -> None:
    assert ask("GET", "/v1/reports/funnel", query="source=").HasField("source")
    assert not ask("GET", "/v1/reports/funnel").HasField("source")


def test_patch_takes_its_mask_from_the_keys_and_null_clears() -> None:
    body: dict[str, Any] = {
        "given_name": None,
        "tags": [],
        "custom": {"tier": None, "x": 1},
        "id": "contact_1",
        "etag": '"3"',
    }
    request = ask("PATCH", "/v1/contacts/contact_1", {**body, "create_time": None})
    assert list(request.update_mask.paths) == ["given_name", "tags", "custom.tier", "custom.x"]
    assert request.contact.id == "contact_1"
    assert request.contact.etag == '"3"'
    assert not request.contact.HasField("given_name")


def test_a_given_mask_stays() -> None:
    request = ask("PATCH", "/v1/contacts/contact_1", {"given_name": "A", "tags": ["b"]}, "update_mask=tags")
    assert list(request.update_mask.paths) == ["tags"]


def test_items_of_a_batch_take_their_masks_too() -> None:
    items = {"requests": [{"contact": {"id": "a", "given_name": None}}, {"contact": {"id": "b", "tags": ["x"]}}]}
    request = ask("POST", "/v1/contacts:batchUpdate", items)
    assert [list(each.update_mask.paths) for each in request.requests] == [["given_name"], ["tags"]]


def test_if_match_becomes_the_etag() -> None:
    assert ask("PATCH", "/v1/contacts/x", {"tags": []}, if_match='"3"').contact.etag == '"3"'
    assert ask("DELETE", "/v1/contacts/x", if_match='"3"').etag == '"3"'
    assert ask("POST", "/v1/deals/x:win", {}, if_match='"3"').etag == '"3"'
    assert not ask("DELETE", "/v1/contacts/x", if_match="*").HasField("etag")
    for wrong in ("3", 'W/"3"', '"3", "4"'):
        assert "If-Match" in refusal("DELETE", "/v1/contacts/x", if_match=wrong).message
    assert "If-Match" in refusal("GET", "/v1/contacts/x", if_match='"3"').message
    assert "If-Match" in refusal("PATCH", "/v1/contacts/x", {"etag": '"4"'}, if_match='"3"').message


def test_the_idempotency_key_becomes_the_request_id() -> None:
    assert ask("POST", "/v1/deals/x:win", {"request_id": UUID}, idempotency_key=UUID).request_id == UUID
    assert "UUID" in refusal("POST", "/v1/deals/x:win", {}, idempotency_key="once").message
    other = UUID.replace("6", "7")
    assert refusal("POST", "/v1/deals/x:win", {"request_id": other}, idempotency_key=UUID).violations
    ask("GET", "/v1/contacts", idempotency_key="anything")


CONTACT = ("POST", "/v1/contacts")
REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], str, str]] = [
    ((*CONTACT, b'{"given_name":}'), {}, "BODY_MALFORMED", "line 1, column 15"),
    ((*CONTACT, b'{"given_name":"a"'), {}, "BODY_MALFORMED", "line 1"),
    ((*CONTACT, b'{"given_name":"a"} x'), {}, "BODY_MALFORMED", "line 1, column 20"),
    ((*CONTACT, b"\xef\xbb\xbf{}"), {}, "BODY_MALFORMED", "body"),
    ((*CONTACT, b'{"given_name":"\xff"}'), {}, "BODY_MALFORMED", "byte 16"),
    ((*CONTACT, b'{"given_name":"a","given_name":"b"}'), {}, "BODY_MALFORMED", "contact.given_name"),
    ((*CONTACT, b'{"custom":{"a":{"x":1,"x":2}}}'), {}, "BODY_MALFORMED", "contact.custom.a.x"),
    ((*CONTACT, b"[" * 100_000), {}, "BODY_MALFORMED", "nested deeper"),
    ((*CONTACT, b'{"custom":' + b'{"a":' * 90 + b"1" + b"}" * 91), {}, "BODY_MALFORMED", "nested deeper"),
    ((*CONTACT, b'{"custom":{"a":' + b"[" * 90 + b"]" * 90 + b"}}"), {}, "BODY_MALFORMED", "nested deeper"),
    ((*CONTACT, b'{"custom":{"a":NaN}}'), {}, "BODY_MALFORMED", "NaN"),
    ((*CONTACT, b'{"custom":{"a":1e999}}'), {}, "FIELD_INVALID", "contact.custom.a: must be a finite number"),
    ((*CONTACT, b'{"custom":{"a":' + b"9" * 5000 + b"}}"), {}, "BODY_MALFORMED", "digits"),
    ((*CONTACT, b'{"custom":{"a":' + b"9" * 500 + b"}}"), {}, "FIELD_INVALID", "finite"),
    ((*CONTACT, b'{"given_name":"a\\u0000"}'), {}, "FIELD_INVALID", "contact.given_name: holds the character NUL"),
    ((*CONTACT, b'{"given_name":"a\\ud800"}'), {}, "FIELD_INVALID", "surrogate pair at character 2"),
    ((*CONTACT, b'{"custom":{"\\u0000":1}}'), {}, "FIELD_INVALID", "NUL"),
    ((*CONTACT, []), {}, "BODY_MALFORMED", "body: must be an object, not a list"),
    ((*CONTACT, b"null"), {}, "BODY_MALFORMED", "body: must be an object, not null"),
    ((*CONTACT, b""), {}, "FIELD_REQUIRED", "contact: is missing"),
    ((*CONTACT, {"givenName": "A"}), {}, "FIELD_UNKNOWN", "did you mean 'given_name'"),
    ((*CONTACT, {"emails": [{"adress": "x"}]}), {}, "FIELD_UNKNOWN", "contact.emails[0].adress"),
    ((*CONTACT, {"emails": [None]}), {}, "FIELD_INVALID", "contact.emails[0]: must be an object, not null"),
    ((*CONTACT, {"given_name": 7}), {}, "FIELD_INVALID", "contact.given_name: must be a string, not a number"),
    ((*CONTACT, {"tags": "a"}), {}, "FIELD_INVALID", "contact.tags: must be a list, not a string"),
    ((*CONTACT, {"tags": [1]}), {}, "FIELD_INVALID", "contact.tags[0]: must be a string"),
    ((*CONTACT, {"custom": []}), {}, "FIELD_INVALID", "contact.custom: must be an object"),
    ((*CONTACT, {"create_time": "soon"}), {}, "FIELD_INVALID", "contact.create_time: must be a time"),
    ((*CONTACT, {"create_time": "2026-02-30T00:00:00Z"}), {}, "FIELD_INVALID", "does not exist"),
    ((*CONTACT, {}), {"content_type": "text/plain"}, "MEDIA_TYPE_UNSUPPORTED", "application/json"),
    ((*CONTACT, {}), {"content_type": "application/json; charset=latin-1"}, "MEDIA_TYPE_UNSUPPORTED", "UTF-8"),
    ((*CONTACT, {}), {"content_encoding": "gzip"}, "MEDIA_TYPE_UNSUPPORTED", "compressed"),
    ((*CONTACT, b" " * (BODY_LIMIT + 1)), {}, "TOO_LARGE", "4194304 bytes"),
    ((*CONTACT, {}, "contact.tags=a"), {}, "FIELD_INVALID", "comes from the path or the body"),
    (("PATCH", "/v1/contacts/a", {"id": "b"}), {}, "FIELD_INVALID", "contact.id: differs"),
    (("POST", "/v1/deals/x:win", {}, "x=1"), {}, "FIELD_UNKNOWN", "query: x"),
    (("GET", "/v1/contacts", {}), {}, "BODY_MALFORMED", "GET takes none"),
    (("GET", "/v1/contacts", None, "page_size=x"), {}, "FIELD_INVALID", "page_size: must be an integer"),
    (("GET", "/v1/contacts", None, "page_size="), {}, "FIELD_INVALID", "page_size: must be an integer"),
    (("GET", "/v1/contacts", None, "page_size=1.5"), {}, "FIELD_INVALID", "page_size: must be an integer"),
    (("GET", "/v1/contacts", None, "page_size=9999999999"), {}, "FIELD_INVALID", "from -2147483648"),
    (("GET", "/v1/contacts", None, "page_size=1&page_size=2"), {}, "FIELD_INVALID", "more than once"),
    (("GET", "/v1/contacts", None, "page_sise=1"), {}, "FIELD_UNKNOWN", "did you mean 'page_size'"),
    (("GET", "/v1/contacts", None, "show_deleted=1"), {}, "FIELD_INVALID", "show_deleted: must be true or false"),
    (("GET", "/v1/contacts", None, "show_deleted=True"), {}, "FIELD_INVALID", "must be true or false"),
    (("GET", "/v1/contacts", None, "filter=%ff"), {}, "FIELD_INVALID", "not UTF-8"),
    (("GET", "/v1/contacts", None, "filter=%00"), {}, "FIELD_INVALID", "filter: holds the character NUL"),
    (("GET", "/v1/contacts", None, "read_mask=id,,tags"), {}, "FIELD_INVALID", "empty field name"),
    (("GET", "/v1/contacts", None, "&".join(f"a{n}=1" for n in range(101))), {}, "FIELD_INVALID", "more than 100"),
    (("GET", "/v1/contacts/x", None, "id=1"), {}, "FIELD_INVALID", "id: comes from the path"),
    (("GET", "/v1/contacts/x", None, "as_of=2026"), {}, "FIELD_INVALID", "as_of: must be a time"),
    (("GET", "/v1/contacts/x", None, "as_of.seconds=1"), {}, "FIELD_INVALID", "as_of: has no fields"),
    (("GET", "/v1/reports/funnel", None, "split_by=FUNNEL_SPLIT_SORCE"), {}, "FIELD_INVALID", "FUNNEL_SPLIT_SOURCE"),
    (("GET", "/v1/reports/funnel", None, "split_by=1"), {}, "FIELD_INVALID", "'1' is none of"),
]


@pytest.mark.parametrize(("arguments", "headers", "reason", "said"), REFUSED)
def test_what_is_wrong_is_refused_with_its_place(arguments: Any, headers: Any, reason: Any, said: Any) -> None:
    failure = refusal(*arguments, **headers)
    assert failure.reason_name == reason
    assert said in failure.message
    assert 400 <= http_status(failure) < 500


def test_a_fault_in_a_field_names_it_for_programs() -> None:
    failure = refusal(*CONTACT, {"emails": [{"address": 1}]})
    assert failure.violations == [("contact.emails[0].address", "must be a string, not a number")]


def test_a_fault_does_not_repeat_the_value() -> None:
    assert "secret" not in refusal(*CONTACT, {"create_time": "secret"}).message


def test_two_members_of_a_oneof_are_refused() -> None:
    message = load().message("crm.sales.v1.DealClose")()
    with pytest.raises(Exception, match="only one of 'won' and 'lost'"):
        Reader().fill(message, {"won": {}, "lost": {}})
    Reader().fill(message, {"won": {}, "lost": None})
    assert message.HasField("won")


@pytest.mark.parametrize("value", [5, "5", 5.0])
def test_whole_numbers_come_as_numbers_or_texts(value: Any) -> None:
    message = load().message("google.type.Money")()
    Reader().fill(message, {"currency_code": "BRL", "units": value})
    assert message.units == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [5.5, True, "5.5", "", 2**63, "9223372036854775808", [], {}])
def test_other_things_are_no_whole_number(value: Any) -> None:
    with pytest.raises(Exception, match="must be an integer"):
        Reader().fill(load().message("google.type.Money")(), {"units": value})


def test_a_reply_shows_what_clients_need() -> None:
    method = load().methods["/crm.contacts.v1.ContactService/GetContact"]
    contact = method.response(etag='"7"', given_name="Zoë")
    contact.create_time.FromJsonString("2026-01-02T03:04:05.678Z")  # type: ignore[attr-defined]
    reply = codec.reply(method, contact.SerializeToString())
    assert reply.etag == '"7"'
    shown = json.loads(reply.body)
    assert shown["given_name"] == "Zoë"
    assert shown["create_time"] == "2026-01-02T03:04:05.678Z"
    assert shown["tags"] == []
    assert "family_name" not in shown
    assert "delete_time" not in shown


@pytest.mark.parametrize("resource", load().resources.values(), ids=lambda resource: resource.prefix)
def test_a_page_shows_its_records_as_each_is_shown_alone(resource: ResourceType) -> None:
    method = next(
        each for each in load().methods.values()
        if each.name.startswith("List") and each.service == f"{resource.full_name}Service"
        and inner(next(iter(descriptor_of(each.response).fields))).full_name == resource.full_name
    )  # fmt: skip
    field = method.response.DESCRIPTOR.fields[0].name
    large = filled(resource.message)
    large.etag = '"' + "9" * 3_000 + '"'
    page = method.response(**{field: [filled(resource.message), resource.message(), large]})
    if "next_page_token" in page.DESCRIPTOR.fields_by_name:
        page.next_page_token = "more"  # type: ignore[attr-defined]
    for _ in range(2):
        assert codec.reply(method, page.SerializeToString()).body == codec.json(page)


def test_what_a_write_answers_is_not_kept() -> None:
    method = load().methods["/crm.gateway.v1.ApiKeyService/CreateApiKey"]
    fresh = Transcoder()
    fresh.reply(method, method.response(secret="rap_once").SerializeToString())
    assert fresh._known.cache_info().currsize == 0


@given(st.binary(max_size=60))
def test_records_are_taken_out_of_whatever_bytes_without_a_hang(data: bytes) -> None:
    with suppress(ValueError):
        records, rest = records_of(1, data)
        assert sum(map(len, records)) + len(rest) <= len(data)


def test_replies_agree_with_the_reference_implementation() -> None:
    """Names and forms are those of google.protobuf's own JSON, but for field masks."""
    for resource in load().resources.values():
        message = filled(resource.message)
        ours = Writer().value(message)
        for each in (message, resource.message()):
            theirs = json_format.MessageToDict(
                each, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            assert Writer().value(each) == theirs
        again = resource.message()
        Reader().fill(again, json.loads(json.dumps(ours)))
        assert again == message


def filled(kind: Any, depth: int = 3) -> Any:
    """A message with every field set."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is None:
            value: Any = {"string": "text é", "bool": True, "enum": 1}.get(_family(field), 3)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.message_type.full_name == "google.protobuf.Struct":
            json_format.ParseDict({"a": [1, 2.5, None, "x", {"b": True}]}, getattr(message, field.name))
        elif depth:
            inner = filled(load().message(field.message_type.full_name), depth - 1)
            target = getattr(message, field.name)
            (target.add() if field.is_repeated else target).CopyFrom(inner)
    return message


def _family(field: Any) -> str:
    if field.enum_type is not None:
        return "enum"
    return {field.TYPE_STRING: "string", field.TYPE_BOOL: "bool"}.get(field.type, "number")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_survives_in_a_custom_field(value: Any) -> None:
    message = struct_pb2.Value()
    Reader().fill(message, value)
    assert Writer().value(message) == value


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reader(body: Any) -> None:
    with suppress(Invalid):
        ask("POST", "/v1/contacts", body)


@given(st.text(max_size=100))
def test_no_query_breaks_the_reader(query: Any) -> None:
    with suppress(Invalid):
        ask("GET", "/v1/contacts", query=query)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_json_lacks_are_texts_in_replies(number: Any) -> None:
    message = load().message("crm.marketing.v1.FunnelGroup")(rate=number)
    assert isinstance(codec.value(message)["rate"], str)  # type: ignore[index]
