"""Values of one field: strings, numbers, booleans, enums, and what every JSON value is called in a fault."""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from chassis.errors import Reason
from gateway.transcode.fault import Fault, shown

Convert = Callable[[Any], Any]
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


def members(value: Any) -> dict[str, Any]:
    """The members of a JSON object. Raises Fault for any other value, and where a key stands twice."""
    if isinstance(value, Doubled):
        raise Fault(f"the key {shown(value.key)} stands here twice", Reason.REASON_BODY_MALFORMED).within(value.key)
    if not isinstance(value, dict):
        raise Fault(f"must be an object, not {kind(value)}")
    return value


def snake(name: str) -> str:
    """A camelCase name in snake_case."""
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda found: f"_{found.group().lower()}", name)


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
        return _single if field.type == _F.TYPE_FLOAT else double
    return _integer(*_RANGES[field.cpp_type])


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Fault(f"must be true or false, not {kind(value)}")
    return value


def double(value: Any) -> float:
    """A finite number."""
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
    number = double(value)
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
