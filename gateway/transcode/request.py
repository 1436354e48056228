"""A whole HTTP call becomes the bytes of a gRPC request, from the descriptors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from crm.type.v1 import options_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis.contract import is_output_only
from chassis.errors import Invalid, Reason
from gateway.contract import Route
from gateway.transcode import body, query
from gateway.transcode.fault import Fault
from gateway.transcode.reader import Reader
from gateway.transcode.scalars import kind

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_ETAG = re.compile(r'"[^"\\\x00-\x1f]*"')
_MASK = "update_mask"


class HttpCall(NamedTuple):
    """What came over HTTP. Header names are in lower case; ``path_values`` are decoded, by field."""

    path_values: Mapping[str, str]
    query: str
    headers: Mapping[str, str]
    body: bytes


def build(reader: Reader, route: Route, call: HttpCall) -> Message:
    """The request message of a call. Raises Invalid or Exhausted, naming what was wrong and where."""
    message = route.method.request()
    content = _read_body(reader, message, route, call)
    if call.query:
        taken = "path or the body" if route.body else "path"
        query.fill(reader, message, query.parse(call.query), _queried(route), taken)
    for field, value in call.path_values.items():
        _bind_path(message, field, value)
    if route.body:
        _derive_masks(message, route, content)
    _take_if_match(message, route, call.headers)
    _take_idempotency_key(message, route, call.headers)
    return message


@cache
def _queried(route: Route) -> set[str]:
    """The fields of a request that its query may name: those that neither path nor body fills."""
    bound = {each.partition(".")[0] for each in route.path_fields} | {route.body}
    return set() if route.body == "*" else {each.name for each in route.method.descriptor.input_type.fields} - bound


def _read_body(reader: Reader, message: Message, route: Route, call: HttpCall) -> Any:
    if not route.body:
        if call.body:
            raise Invalid(Reason.REASON_BODY_MALFORMED, f"body: {route.verb} takes none here; use query parameters")
        return None
    if len(call.body) > body.BODY_LIMIT:
        raise body.too_large()
    if not call.body:
        if route.body == "*":
            return {}
        what = "is missing; send it as the JSON body"
        raise Invalid(Reason.REASON_FIELD_REQUIRED, f"{route.body}: {what}", violations=[(route.body, what)])
    body.check_headers(call.headers)
    content = body.parse(call.body)
    if not isinstance(content, dict):
        raise Invalid(Reason.REASON_BODY_MALFORMED, f"body: must be an object, not {kind(content)}")
    try:
        if route.body == "*":
            reader.fill(message, content)
        else:
            target = getattr(message, route.body)
            target.SetInParent()
            reader.fill(target, content)
    except Fault as fault:
        if route.body != "*" and fault.place:
            fault.within(route.body)
        raise fault.failure("" if fault.place else "body") from None
    return content


def _bind_path(message: Message, field: str, value: str) -> None:
    *outer, name = field.split(".")
    target: Any = message
    for step in outer:
        target = getattr(target, step)
        target.SetInParent()
    if "\0" in value:
        raise Fault("holds the character NUL (U+0000), which no text may").within(field).failure("path")
    if (said := getattr(target, name)) and said != value:
        raise Fault("differs from the one in the path").within(field).failure()
    setattr(target, name, value)


# ---- update masks ----------------------------------------------------------------------------------


def resource_field(descriptor: Descriptor) -> str:
    """The field of a request that holds the record it writes; empty where none does."""
    for field in descriptor.fields:
        if field.message_type is not None and not field.is_repeated and _is_resource(field.message_type):
            return field.name
    return ""


def _is_resource(descriptor: Descriptor) -> bool:
    return bool(descriptor.GetOptions().Extensions[options_pb2.resource].type_prefix)


def _derive_masks(message: Any, route: Route, content: Any) -> None:
    """Fills absent update masks, a batch's too, from the JSON's keys, so that a null clears its field."""
    descriptor = message.DESCRIPTOR
    if _MASK in descriptor.fields_by_name:
        name = resource_field(descriptor)
        _derive(message, content if route.body == name else content.get(name), name)
        return
    items = descriptor.fields_by_name.get("requests")
    if items is None or items.message_type is None or _MASK not in items.message_type.fields_by_name:
        return
    name = resource_field(items.message_type)
    for item, said in zip(message.requests, content.get("requests") or (), strict=True):
        _derive(item, said.get(name), name)


def _derive(message: Any, record: Any, name: str) -> None:
    if name and isinstance(record, dict) and not message.HasField(_MASK):
        message.update_mask.paths.extend(_mask_paths(message.DESCRIPTOR.fields_by_name[name].message_type, record))


def _mask_paths(resource: Descriptor, record: dict[str, Any]) -> list[str]:
    paths: list[str] = []
    for key, value in record.items():
        field = resource.fields_by_name[key]
        if key == "etag" or is_output_only(field):
            continue
        if key == "custom" and isinstance(value, dict):
            paths += [f"custom.{each}" for each in value]
        else:
            paths.append(key)
    return paths


# ---- headers ---------------------------------------------------------------------------------------


def _take_if_match(message: Any, route: Route, headers: Mapping[str, str]) -> None:
    given = headers.get("if-match", "").strip()
    if not given or given == "*":
        return
    if not _ETAG.fullmatch(given):
        text = "If-Match: must be one strong etag in quotes, as the header ETag or the field 'etag' gave it"
        raise Invalid(Reason.REASON_FIELD_INVALID, text)
    target, place = message, "etag"
    if "etag" not in message.DESCRIPTOR.fields_by_name:
        name = resource_field(message.DESCRIPTOR) if route.method.writes else ""
        if not name or "etag" not in message.DESCRIPTOR.fields_by_name[name].message_type.fields_by_name:
            raise Invalid(Reason.REASON_FIELD_INVALID, f"If-Match: {route.method.name} has no precondition")
        target, place = getattr(message, name), f"{name}.etag"
    if target.etag and target.etag != given:
        raise Fault("differs from the header If-Match").within(place).failure()
    target.etag = given


def _take_idempotency_key(message: Any, route: Route, headers: Mapping[str, str]) -> None:
    if not route.method.emits or not (given := headers.get("idempotency-key", "").strip().strip('"')):
        return
    if not _UUID.fullmatch(given):
        raise Invalid(Reason.REASON_FIELD_INVALID, "Idempotency-Key: must be a UUID")
    if "request_id" not in message.DESCRIPTOR.fields_by_name:
        raise Invalid(Reason.REASON_FIELD_INVALID, f"Idempotency-Key: {route.method.name} takes none")
    if message.request_id and message.request_id != given:
        raise Fault("differs from the header Idempotency-Key").within("request_id").failure()
    message.request_id = given
