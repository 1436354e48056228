"""Proto JSON out: a message becomes a JSON value in the proto's own snake_case names.

Fields with presence are left out while unset; every other field is always there. 64-bit integers are strings, as in
proto JSON: JavaScript cannot hold them. Field masks keep the names of the fields as they are.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # noqa: F401  registers the types that a status carries

from gateway.transcode.reader import descriptor_of

Show = Callable[[Any], Any]
_F = FieldDescriptor
_64_BIT = (_F.CPPTYPE_INT64, _F.CPPTYPE_UINT64)
# Without a zone, so that its text has none: it is UTC throughout.
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001


class Writer:
    """Writes messages of any type; what it learns of a type it keeps."""

    def __init__(self) -> None:
        self._shows: dict[str, Show] = {}

    def value(self, message: Message) -> Any:
        """The JSON value of a message."""
        return self._of(descriptor_of(message))(message)

    def _of(self, descriptor: Descriptor) -> Show:
        found = self._shows.get(descriptor.full_name)
        if found is None:
            if descriptor.full_name == "google.protobuf.Any":
                found = partial(_any, self)
            else:
                found = _WELL_KNOWN.get(descriptor.full_name) or self._object(descriptor)
            self._shows[descriptor.full_name] = found
        return found

    def _object(self, descriptor: Descriptor) -> Show:
        # A page holds thousands of fields, so this loop is as tight as it can be: no call for what is shown as it is.
        plan: list[tuple[str, bool, Show | None]] = []

        def show_object(message: Any) -> dict[str, Any]:
            if not plan:
                # Not before it is needed: a type may hold itself.
                for each in descriptor.fields:
                    shown = self._show(each)
                    plan.append((each.name, each.has_presence, None if shown is _same else shown))
            members: dict[str, Any] = {}
            has = message.HasField
            for name, has_presence, show in plan:
                if not has_presence or has(name):
                    content = getattr(message, name)
                    members[name] = content if show is None else show(content)
            return members

        return show_object

    def _show(self, field: FieldDescriptor) -> Show:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            one = self._one(field.message_type.fields_by_name["value"])
            return lambda pairs: {str(key): one(pairs[key]) for key in sorted(pairs)}
        one = self._one(field)
        if field.is_repeated:
            return list if one is _same else lambda items: [one(each) for each in items]
        return one

    def _one(self, field: FieldDescriptor) -> Show:
        if field.message_type is not None:
            return self._of(field.message_type)
        if field.enum_type is not None:
            return _enum(field.enum_type)
        if field.cpp_type in _64_BIT:
            return str
        if field.type == _F.TYPE_BYTES:
            return _bytes
        if field.cpp_type in (_F.CPPTYPE_DOUBLE, _F.CPPTYPE_FLOAT):
            return _number
        return _same


def _same(content: Any) -> Any:
    return content


def _bytes(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _number(content: float) -> Any:
    if math.isfinite(content):
        return content
    return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"


def _enum(enum: EnumDescriptor) -> Show:
    names = {each.number: each.name for each in enum.values}
    return lambda number: names.get(number, number)


# ---- well-known types ------------------------------------------------------------------------------


def _fraction(nanos: int) -> str:
    if not nanos:
        return ""
    if nanos % 1000:
        return f".{nanos:09d}"
    return f".{nanos // 1000:06d}" if nanos % 1_000_000 else f".{nanos // 1_000_000:03d}"


def timestamp(message: Any) -> str:
    """A time as RFC 3339 writes it, in UTC, with as many digits as it needs."""
    nanos = message.nanos
    return f"{_second(message.seconds)}{_fraction(nanos)}Z" if nanos else f"{_second(message.seconds)}Z"


@lru_cache(maxsize=4096)  # a page shows the same seconds again and again
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def _duration(message: Any) -> str:
    sign = "-" if message.seconds < 0 or message.nanos < 0 else ""
    return f"{sign}{abs(message.seconds)}{_fraction(abs(message.nanos))}s"


def _field_mask(message: Any) -> str:
    return ",".join(message.paths)


def _struct(message: Any) -> dict[str, Any]:
    return {key: _value(content) for key, content in sorted(message.fields.items())}


def _list(message: Any) -> list[Any]:
    return [_value(each) for each in message.values]


def _value(message: Any) -> Any:
    which = message.WhichOneof("kind")
    if which is None or which == "null_value":
        return None
    content = getattr(message, which)
    if which == "struct_value":
        return _struct(content)
    if which == "list_value":
        return _list(content)
    if which == "number_value":
        return int(content) if content.is_integer() and abs(content) < 2**53 else _number(content)
    return content


def _any(writer: Writer, message: any_pb2.Any) -> Any:
    kind = _class_of(message.type_url.rpartition("/")[2])
    if kind is None:
        return {"@type": message.type_url}
    try:
        inner = kind.FromString(message.value)
    except DecodeError:
        return {"@type": message.type_url}
    shown = writer.value(inner)
    return {"@type": message.type_url, **(shown if isinstance(shown, dict) else {"value": shown})}


@lru_cache(maxsize=100)
def _class_of(full_name: str) -> type[Message] | None:
    try:
        return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full_name))
    except KeyError:
        return None


_WELL_KNOWN: dict[str, Show] = {
    "google.protobuf.Timestamp": timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.FieldMask": _field_mask,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list,
}
