"""Query parameters fill what path and body leave of a request: dots reach into it, lists repeat the name."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.errors import Failure, Invalid, Reason
from gateway.transcode import body
from gateway.transcode.fault import Fault, shown
from gateway.transcode.reader import Reader, descriptor_of, unknown_field

# Distinct parameters of a call, and all their values: a list may be long, as BatchGet's ids are.
NAMES_LIMIT = 100
VALUES_LIMIT = 1100
_F = FieldDescriptor
# Their JSON form is one string, which stands in a query as it is.
_TEXTUAL = {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}


def parse(query: str) -> dict[str, list[str]]:
    """The parameters by name, each with its values in their order. Raises Invalid."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=VALUES_LIMIT)
    except UnicodeDecodeError:
        raise Invalid(Reason.REASON_FIELD_INVALID, "query: a parameter is not UTF-8") from None
    except ValueError:
        raise _too_many(VALUES_LIMIT) from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    if len(found) > NAMES_LIMIT:
        raise _too_many(NAMES_LIMIT)
    return found


def _too_many(limit: int) -> Invalid:
    return Invalid(Reason.REASON_FIELD_INVALID, f"query: more than {limit} parameters")


def fill(reader: Reader, message: Message, parameters: dict[str, list[str]], allowed: set[str], taken: str) -> None:
    """Sets in ``message`` what the parameters say.

    ``allowed`` are the fields of the request that a parameter may name; ``taken`` says where the others come
    from. Raises Invalid for whatever has no place.
    """
    for name, values in parameters.items():
        try:
            _fill_one(reader, message, name, values, allowed, taken)
        except Fault as fault:
            raise fault.failure("query") from None


def _fill_one(reader: Reader, message: Message, name: str, values: list[str], allowed: set[str], taken: str) -> None:
    steps = name.split(".")
    known = message.DESCRIPTOR.fields_by_name
    if steps[0] in known and steps[0] not in allowed:
        raise Fault(f"comes from the {taken}, not from the query").within(name)
    if steps[0] not in known:
        raise unknown_field(name, dict.fromkeys(sorted(allowed)))
    target = message
    for depth, step in enumerate(steps[:-1]):
        field = _field(descriptor_of(target), step, name)
        if field.message_type is None or field.is_repeated or field.message_type.full_name in _TEXTUAL:
            raise Fault("has no fields of its own").within(".".join(steps[: depth + 1]))
        target = getattr(target, step)
        target.SetInParent()
    field = _field(descriptor_of(target), steps[-1], name)
    if not field.is_repeated and len(values) > 1:
        raise Fault("stands here more than once, and takes one value").within(name)
    try:
        value = [_json(field, each) for each in values] if field.is_repeated else _json(field, values[0])
        reader.fields(descriptor_of(target))[field.name](target, value)
    except Fault as fault:
        raise fault.within(name) from None


def _field(descriptor: Descriptor, step: str, name: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(step)
    if field is None:
        fault = unknown_field(step, descriptor.fields_by_name)
        fault.place = [name]
        raise fault
    return field


def _json(field: FieldDescriptor, value: str) -> Any:
    """The JSON value that a parameter's text stands for."""
    if field.type == _F.TYPE_BOOL:
        if value not in ("true", "false"):
            raise Fault(f"must be true or false, not {shown(value)}")
        return value == "true"
    if field.message_type is not None and field.message_type.full_name not in _TEXTUAL:
        try:
            return body.parse(value.encode(), "")
        except Failure as failure:
            raise Fault(f"must be JSON text: {failure.message.removeprefix(': ')}", failure.reason) from None
    if field.cpp_type in (_F.CPPTYPE_DOUBLE, _F.CPPTYPE_FLOAT) and not value:
        raise Fault("must be a number")
    return value
