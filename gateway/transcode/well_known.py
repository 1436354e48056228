"""The well-known types in their own JSON forms (protobuf.dev, ProtoJSON), field masks in snake_case."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from chassis.errors import Reason
from gateway.transcode.fault import Fault
from gateway.transcode.scalars import double, kind, members, snake, text

# How deep objects and lists may be nested, the body itself counted.
DEPTH_LIMIT = 64

Fill = Callable[[Message, Any], None]

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_DURATION = re.compile(r"(-)?(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_MEANT = "must be a time as RFC 3339 writes it, for example '2026-03-01T09:30:00Z'"
_DURATION_MAX_S = 315_576_000_000
# From here on a double no longer holds every integer.
_INEXACT = 2.0**53


def _timestamp(message: Any, value: Any) -> None:
    if not isinstance(value, str):
        raise Fault(f"{_TIME_MEANT}, not {kind(value)}")
    found = _TIME.fullmatch(value)
    if found is None:
        raise Fault(_TIME_MEANT)
    year, month, day, hour, minute, second = (int(each) for each in found.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if found[9]:
            if int(found[10]) > 23 or int(found[11]) > 59:
                raise ValueError("no such offset")
            offset = timedelta(hours=int(found[10]), minutes=int(found[11]))
            moment = moment - offset if found[9] == "+" else moment + offset
    except (ValueError, OverflowError):
        raise Fault("names a day, hour or offset that does not exist") from None
    message.seconds = int((moment - _EPOCH).total_seconds())
    message.nanos = int((found[7] or "0").ljust(9, "0"))


def _duration(message: Any, value: Any) -> None:
    meant = "must be a duration in seconds with the letter s, for example '90s' or '1.5s'"
    if not isinstance(value, str):
        raise Fault(f"{meant}, not {kind(value)}")
    found = _DURATION.fullmatch(value)
    if found is None:
        raise Fault(meant)
    seconds, nanos = int(found[2]), int((found[3] or "0").ljust(9, "0"))
    if seconds > _DURATION_MAX_S:
        raise Fault(f"must be at most {_DURATION_MAX_S} seconds")
    sign = -1 if found[1] else 1
    message.seconds, message.nanos = sign * seconds, sign * nanos


def _field_mask(message: Any, value: Any) -> None:
    if not isinstance(value, str):
        raise Fault(f"must be field names with commas between them in one string, not {kind(value)}")
    paths = [each.strip() for each in text(value).split(",")] if value else []
    if not all(paths):
        raise Fault("has an empty field name between its commas")
    message.paths.extend(map(_mask_path, paths))


def _mask_path(path: str) -> str:
    # Proto JSON writes masks in camelCase, which is taken too. A custom field's key stays as it is.
    head, dot, key = path.partition(".")
    return f"{snake(head)}{dot}{key}" if head == "custom" else snake(path)


def _struct(message: Any, value: Any) -> None:
    _fill_struct(message, value, 2)


def _value(message: Any, value: Any) -> None:
    _fill_value(message, value, 2)


def _list_value(message: Any, value: Any) -> None:
    _fill_list(message, value, 2)


def _fill_struct(message: Any, value: Any, depth: int) -> None:
    _refuse_depth(depth)
    message.SetInParent()
    for key, member in members(value).items():
        try:
            _fill_value(message.fields[text(key)], member, depth)
        except Fault as fault:
            raise fault.within(key) from None


def _fill_list(message: Any, value: Any, depth: int) -> None:
    _refuse_depth(depth)
    if not isinstance(value, list):
        raise Fault(f"must be a list, not {kind(value)}")
    message.SetInParent()
    for index, item in enumerate(value):
        try:
            _fill_value(message.values.add(), item, depth)
        except Fault as fault:
            raise fault.within(index) from None


def _fill_value(message: Any, value: Any, depth: int) -> None:
    match value:
        case None:
            message.null_value = 0
        case bool():
            message.bool_value = value
        case str():
            message.string_value = text(value)
        case int() | float():
            message.number_value = double(value)
        case dict():
            _fill_struct(message.struct_value, value, depth + 1)
        case _:
            _fill_list(message.list_value, value, depth + 1)


def exact(content: Struct | ListValue) -> bool:
    """Whether every number in there is what the client wrote: an integer of more than 53 bits may have lost digits."""
    values: Iterable[Value] = content.fields.values() if isinstance(content, Struct) else content.values
    for each in values:
        kind = each.WhichOneof("kind")
        if kind == "number_value" and abs(each.number_value) >= _INEXACT and each.number_value.is_integer():
            return False
        if kind in ("struct_value", "list_value") and not exact(getattr(each, kind)):
            return False
    return True


def _refuse_depth(depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise Fault(f"is nested deeper than {DEPTH_LIMIT}", Reason.REASON_BODY_MALFORMED)


def _any(message: Any, value: Any) -> None:
    raise Fault("is set by the server only")


WELL_KNOWN: dict[str, Fill] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.FieldMask": _field_mask,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list_value,
    "google.protobuf.Any": _any,
}
