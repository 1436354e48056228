"""Proto JSON in: a parsed JSON value becomes a message, strictly.

Names are the proto's own, in snake_case. What is unknown, doubled, of the wrong type or out of range is a
fault that names its place; nothing is dropped. The fault does not repeat the value: it may be personal.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.errors import Reason
from gateway.transcode.fault import Fault, shown

# How deep objects and lists may be nested, the body itself counted.
DEPTH_LIMIT = 64

Convert = Callable[[Any], Any]
Fill = Callable[[Message, Any], None]
_F = FieldDescriptor

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_RANGES = {
    _F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _F.CPPTYPE_UINT32: (0, 2**32 - 1),
    _F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOAT_MAX = 3.4028234663852886e38


class Doubled(dict[str, Any]):
    """A JSON object that named a key twice, which JSON readers resolve in different ways."""

    key: str = ""


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object for json.loads that remembers a key that came twice."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    doubled = Doubled(made)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            doubled.key = key
            break
        seen.add(key)
    return doubled


def descriptor_of(message: Message) -> Descriptor:
    """The type of a message."""
    return cast(Descriptor, message.DESCRIPTOR)


def submessage(field: FieldDescriptor) -> Descriptor:
    """The type of a field that holds a message. Raises TypeError for any other field."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} holds no message")
    return field.message_type


class Reader:
    """Reads messages of any type; what it learns of a type it keeps."""

    def __init__(self) -> None:
        self._fields: dict[str, dict[str, Fill]] = {}
        self._oneofs: dict[str, dict[str, str]] = {}

    def fill(self, message: Message, value: Any) -> None:
        """Sets in ``message`` what the JSON value says. Raises Fault."""
        descriptor = descriptor_of(message)
        special = _WELL_KNOWN.get(descriptor.full_name)
        if special is not None:
            special(message, value)
            return
        self._object(message, value, descriptor)

    def field(self, message: Message, name: str, value: Any) -> None:
        """Sets one field of ``message``. Raises Fault, also for an unknown name."""
        fields = self.fields(descriptor_of(message))
        fill = fields.get(name)
        if fill is None:
            raise unknown_field(name, fields)
        try:
            fill(message, value)
        except Fault as fault:
            raise fault.within(name) from None

    def fields(self, descriptor: Descriptor) -> dict[str, Fill]:
        """How each field of a type is set, by its name."""
        found = self._fields.get(descriptor.full_name)
        if found is None:
            found = {each.name: self._fill_for(each) for each in descriptor.fields}
            self._fields[descriptor.full_name] = found
            self._oneofs[descriptor.full_name] = {
                each.name: oneof for each in descriptor.fields if (oneof := _real_oneof(each))
            }
        return found

    def _object(self, message: Message, value: Any, descriptor: Descriptor) -> None:
        members = _members(value)
        fields = self.fields(descriptor)
        oneofs = self._oneofs[descriptor.full_name]
        if oneofs:
            _refuse_two_of_one(members, oneofs)
        for name, member in members.items():
            fill = fields.get(name)
            if fill is None:
                raise unknown_field(name, fields)
            try:
                fill(message, member)
            except Fault as fault:
                raise fault.within(name) from None

    def _fill_for(self, field: FieldDescriptor) -> Fill:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return self._map(field)
        if field.is_repeated:
            return self._repeated(field)
        if field.message_type is not None:
            return self._message(field)
        return _scalar(field.name, converter(field))

    def _message(self, field: FieldDescriptor) -> Fill:
        name = field.name
        takes_null = submessage(field).full_name == "google.protobuf.Value"

        def fill(message: Message, value: Any) -> None:
            if value is None and not takes_null:
                return
            inner = getattr(message, name)
            inner.SetInParent()
            self.fill(inner, value)

        return fill

    def _repeated(self, field: FieldDescriptor) -> Fill:
        name = field.name
        convert = None if field.message_type is not None else converter(field)

        def fill(message: Message, value: Any) -> None:
            if value is None:
                return
            if not isinstance(value, list):
                raise Fault(f"must be a list, not {kind(value)}")
            target = getattr(message, name)
            for index, item in enumerate(value):
                try:
                    if convert is not None:
                        target.append(convert(item))
                    else:
                        self.fill(target.add(), item)
                except Fault as fault:
                    raise fault.within(index) from None

        return fill

    def _map(self, field: FieldDescriptor) -> Fill:
        name = field.name
        by_name = submessage(field).fields_by_name
        key, item = by_name["key"], by_name["value"]
        if key.type != _F.TYPE_STRING:
            raise TypeError(f"{field.full_name}: only maps with string keys are known")
        convert = None if item.message_type is not None else converter(item)

        def fill(message: Message, value: Any) -> None:
            if value is None:
                return
            target = getattr(message, name)
            for member, content in _members(value).items():
                try:
                    if convert is not None:
                        target[text(member)] = convert(content)
                    else:
                        self.fill(target[text(member)], content)
                except Fault as fault:
                    raise fault.within(member) from None

        return fill


def _scalar(name: str, convert: Convert) -> Fill:
    def fill(message: Message, value: Any) -> None:
        if value is not None:
            setattr(message, name, convert(value))

    return fill


def _real_oneof(field: FieldDescriptor) -> str:
    # An `optional` field is the only member of a oneof the compiler makes, named `_` and the field.
    name = field.containing_oneof.name if field.containing_oneof is not None else ""
    return "" if name == f"_{field.name}" else name


def _refuse_two_of_one(members: Mapping[str, Any], oneofs: dict[str, str]) -> None:
    chosen: dict[str, str] = {}
    for name, value in members.items():
        oneof = oneofs.get(name)
        if oneof is None or value is None:
            continue
        if oneof in chosen:
            raise Fault(f"only one of '{chosen[oneof]}' and '{name}' may be set").within(name)
        chosen[oneof] = name


def _members(value: Any) -> dict[str, Any]:
    if isinstance(value, Doubled):
        raise Fault(f"the key {shown(value.key)} stands here twice", Reason.REASON_BODY_MALFORMED).within(value.key)
    if not isinstance(value, dict):
        raise Fault(f"must be an object, not {kind(value)}")
    return value


def unknown_field(name: str, known: Mapping[str, Any]) -> Fault:
    """The fault of a name that does not exist, with the one that was probably meant."""
    snake = _snake(name)
    near = [snake] if snake in known else difflib.get_close_matches(name[:64], known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else _choices("; it may be", list(known))
    return Fault(f"there is no such field{hint}", Reason.REASON_FIELD_UNKNOWN).within(name)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda found: f"_{found.group().lower()}", name)


def _choices(lead: str, names: list[str]) -> str:
    return f"{lead} one of {', '.join(names)}" if 0 < len(names) <= 30 else ""


def kind(value: Any) -> str:
    """What a JSON value is, in words and without its content."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
    return "an object"


def text(value: Any) -> str:
    """A string that every store can hold: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str):
        raise Fault(f"must be a string, not {kind(value)}")
    if "\0" in value:
        raise Fault("holds the character NUL (U+0000), which no text may")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Fault(f"holds half of a surrogate pair at character {error.start + 1}") from None
    return value


def converter(field: FieldDescriptor) -> Convert:
    """How one JSON value becomes one value of a scalar or enum field."""
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.type == _F.TYPE_STRING:
        return text
    if field.type == _F.TYPE_BYTES:
        return _bytes
    if field.type == _F.TYPE_BOOL:
        return _boolean
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return _single if field.type == _F.TYPE_FLOAT else _double
    return _integer(*_RANGES[field.cpp_type])


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Fault(f"must be true or false, not {kind(value)}")
    return value


def _double(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault(f"must be a number, not {kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Fault("must be a finite number")
    return number


def _single(value: Any) -> float:
    number = _double(value)
    if abs(number) > _FLOAT_MAX:
        raise Fault("must be a number of single precision")
    return number


def _integer(low: int, high: int) -> Convert:
    def convert(value: Any) -> int:
        if isinstance(value, str):
            if not _INTEGER.fullmatch(value):
                raise Fault("must be an integer, and this string is none")
            value = int(value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Fault(f"must be an integer, not {'a fraction' if isinstance(value, float) else kind(value)}")
        if not low <= value <= high:
            raise Fault(f"must be an integer from {low} to {high}")
        return value

    return convert


def _bytes(value: Any) -> bytes:
    letters = text(value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Fault("must be base64") from None


def _enum(enum: EnumDescriptor) -> Convert:
    numbers = {each.name: each.number for each in enum.values}
    names = ", ".join(numbers)

    def convert(value: Any) -> int:
        if not isinstance(value, str):
            raise Fault(f"must be one of {names}, not {kind(value)}")
        number = numbers.get(value)
        if number is None:
            near = difflib.get_close_matches(value[:64].upper(), numbers, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Fault(f"{shown(value)} is none of {names}{hint}")
        return number

    return convert


# ---- well-known types ------------------------------------------------------------------------------

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_DURATION = re.compile(r"(-)?(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_MEANT = "must be a time as RFC 3339 writes it, for example '2026-03-01T09:30:00Z'"
_DURATION_MAX_S = 315_576_000_000


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
    return f"{_snake(head)}{dot}{key}" if head == "custom" else _snake(path)


def _struct(message: Any, value: Any) -> None:
    _fill_struct(message, value, 2)


def _value(message: Any, value: Any) -> None:
    _fill_value(message, value, 2)


def _list_value(message: Any, value: Any) -> None:
    _fill_list(message, value, 2)


def _fill_struct(message: Any, value: Any, depth: int) -> None:
    _refuse_depth(depth)
    message.SetInParent()
    for key, member in _members(value).items():
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
            message.number_value = _double(value)
        case dict():
            _fill_struct(message.struct_value, value, depth + 1)
        case _:
            _fill_list(message.list_value, value, depth + 1)


def _refuse_depth(depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise Fault(f"is nested deeper than {DEPTH_LIMIT}", Reason.REASON_BODY_MALFORMED)


def _any(message: Any, value: Any) -> None:
    raise Fault("is set by the server only")


_WELL_KNOWN: dict[str, Fill] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.FieldMask": _field_mask,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list_value,
    "google.protobuf.Any": _any,
}
