"""What every request must meet before a handler sees it: the contract's rules, ids, times, money, text."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final
from zoneinfo import available_timezones

from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from protovalidate import Validator

from chassis import ids
from chassis.contract import descriptor_of, inner, is_output_only, is_repeated, is_required, is_resource, refs
from chassis.errors import Invalid, Reason, Violation, invalid

_VALIDATOR: Final = Validator()
_MIN_SECONDS: Final = -62_135_596_800  # 0001-01-01
_MAX_SECONDS: Final = 253_402_300_799  # 9999-12-31T23:59:59


def check(message: Message, path: str = "") -> None:
    """Raises Invalid, naming every field that breaks a rule, with its path below ``path``."""
    wrong: list[Violation] = []
    wrong_ids: list[Violation] = []
    _walk(message, path, wrong, wrong_ids)
    if wrong_ids:
        raise Invalid(Reason.REASON_ID_INVALID, _line(wrong_ids), violations=wrong_ids + wrong)
    if not wrong:
        wrong = [(_join(path, _path(each)), each.proto.message) for each in _VALIDATOR.collect_violations(message)]
    if wrong:
        raise Invalid(Reason.REASON_FIELD_INVALID, _line(wrong), violations=wrong)


def check_required(message: Message, path: str = "", *, records: bool = True) -> None:
    """Raises Invalid, FIELD_REQUIRED, where a field that is REQUIRED is missing, also in messages inside.

    Without ``records`` the resources inside are left out: what they need is checked when they are whole.
    """
    if missing := list(_missing(message, path, records)):
        raise Invalid(Reason.REASON_FIELD_REQUIRED, _line(missing), violations=missing)


def fitting(message: Message | type[Message], field: str, text: str) -> str:
    """A made-up text, cut to what the contract allows the ``field`` of this message; whole where it sets no bound."""
    return text[: _longest(descriptor_of(message).fields_by_name[field])]


@cache
def _longest(field: FieldDescriptor) -> int | None:
    rules = field.GetOptions().Extensions[validate_pb2.field].string
    return int(rules.max_len) if rules.HasField("max_len") else None


def check_time_zone(name: str, field: str = "time_zone") -> None:
    """Raises Invalid where ``name`` is no IANA time zone that means the same here and in the database."""
    if name not in _time_zones():
        raise invalid(field, "it is no IANA time zone, such as 'America/Sao_Paulo'")


@cache
def _time_zones() -> frozenset[str]:
    # "localtime" is whatever the machine says.
    return frozenset(available_timezones() | {"UTC"}) - {"localtime"}


def clear_output_only(resource: Message, keep: frozenset[str] = frozenset()) -> None:
    """Drops what only the server sets: a client may send back what it got."""
    for name in _output_only(resource.DESCRIPTOR):
        if name not in keep:
            resource.ClearField(name)


@cache
def _output_only(descriptor: Any) -> tuple[str, ...]:
    return tuple(field.name for field in descriptor.fields if is_output_only(field))


def _line(violations: list[Violation]) -> str:
    first = f"{violations[0][0]}: {violations[0][1]}"
    return first if len(violations) == 1 else f"{first} (and {len(violations) - 1} more)"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _path(violation: Any) -> str:
    parts = []
    for element in violation.proto.field.elements:
        subscript = element.subscript
        inside = subscript is not None and subscript.field == "index"
        parts.append(f"{element.field_name}[{subscript.value}]" if inside else element.field_name)
    return ".".join(parts)


@dataclass(frozen=True)
class _Looked:
    """How the values of a field are looked at."""

    name: str
    repeated: bool
    text: bool
    map: bool
    refs: tuple[str, ...]


@cache
def _looked(field: FieldDescriptor) -> _Looked | None:
    """What is to be seen in a field; None for one that any value fits, or that the contract's rules see to."""
    message = field.type == FieldDescriptor.TYPE_MESSAGE
    if not message and field.type != FieldDescriptor.TYPE_STRING:
        return None
    is_map = message and bool(inner(field).GetOptions().map_entry)
    return _Looked(field.name, is_repeated(field), not message, is_map, refs(field))


def _walk(message: Message, path: str, wrong: list[Violation], wrong_ids: list[Violation]) -> None:
    for field, value in message.ListFields():
        how = _looked(field)
        if how is None:
            continue
        name = f"{path}.{how.name}" if path else how.name
        look = _text if how.text else _walk_map if how.map else _message
        if how.repeated and not how.map:
            for index, each in enumerate(value):
                look(how, each, f"{name}[{index}]", wrong, wrong_ids)
        else:
            look(how, value, name, wrong, wrong_ids)


def _message(_how: _Looked, message: Message, path: str, wrong: list[Violation], wrong_ids: list[Violation]) -> None:
    special = _SPECIAL.get(message.DESCRIPTOR.full_name)
    if special is None:
        _walk(message, path, wrong, wrong_ids)
    elif problem := special(message):
        wrong.append((path, problem))


def _walk_map(how: _Looked, values: Any, path: str, wrong: list[Violation], wrong_ids: list[Violation]) -> None:
    for key, each in values.items():
        if isinstance(key, str) and "\0" in key:
            wrong.append((path, "a key holds a NUL character"))
        if isinstance(each, Message):
            _message(how, each, f"{path}.{key}", wrong, wrong_ids)


def _text(how: _Looked, value: str, path: str, wrong: list[Violation], wrong_ids: list[Violation]) -> None:
    if "\0" in value:
        wrong.append((path, "it holds a NUL character"))
    elif value and how.refs and (problem := _id_problem(how.refs, value)):
        wrong_ids.append((path, problem))


def _id_problem(prefixes: tuple[str, ...], value: str) -> str:
    try:
        prefix, _ = ids.decode(value)
    except ValueError as error:
        return f"it is no id: {error}"
    if prefix in prefixes or prefixes == ("*",):
        return ""
    return f"it is the id of a {prefix}; a {' or a '.join(prefixes)} belongs here"


def _timestamp(message: Any) -> str:
    if not _MIN_SECONDS <= message.seconds <= _MAX_SECONDS or not 0 <= message.nanos < 1_000_000_000:
        return "a time lies between the years 1 and 9999"
    return ""


def _duration(message: Any) -> str:
    if abs(message.seconds) > 315_576_000_000 or abs(message.nanos) > 999_999_999:
        return "a duration is at most 10,000 years"
    return "its seconds and nanos have the same sign" if message.seconds * message.nanos < 0 else ""


def _money(message: Any) -> str:
    code = message.currency_code
    if len(code) != 3 or not code.isascii() or not code.isupper() or not code.isalpha():
        return "its currency_code is an ISO 4217 code such as 'EUR'"
    if abs(message.nanos) > 999_999_999:
        return "its nanos lie between -999,999,999 and 999,999,999"
    return "its units and nanos have the same sign" if message.units * message.nanos < 0 else ""


def _date(message: Any) -> str:
    if not 1 <= message.year <= 9999 or not 1 <= message.month <= 12:
        return "it is a whole date with year, month and day"
    days = calendar.monthrange(message.year, message.month)[1]
    return "" if 1 <= message.day <= days else "there is no such day"


def _decimal(message: Any) -> str:
    try:
        number = Decimal(message.value)
    except InvalidOperation:
        return "its value is a number such as '2.5'"
    return "" if number.is_finite() and len(message.value) <= 40 else "its value is a finite number of up to 40 digits"


def _float(message: Any) -> str:
    if message.WhichOneof("kind") == "number_value" and message.number_value in (float("inf"), float("-inf")):
        return "it is not a finite number"
    if message.WhichOneof("kind") == "string_value" and "\0" in message.string_value:
        return "it holds a NUL character"
    return ""


_SPECIAL: Final[dict[str, Any]] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.type.Money": _money,
    "google.type.Date": _date,
    "google.type.Decimal": _decimal,
    "google.protobuf.Value": _float,
}


@cache
def _required(descriptor: Any) -> tuple[FieldDescriptor, ...]:
    return tuple(field for field in descriptor.fields if is_required(field))


@cache
def _asking(descriptor: Any, records: bool) -> tuple[FieldDescriptor, ...]:
    """The fields whose messages are to be looked into."""
    return tuple(
        field for field in descriptor.fields
        if field.type == FieldDescriptor.TYPE_MESSAGE
        and inner(field).full_name.startswith("crm.")
        and not inner(field).GetOptions().map_entry
        and (records or not is_resource(inner(field)))
        and _asks(inner(field))
    )  # fmt: skip


@cache
def _asks(descriptor: Any, above: frozenset[str] = frozenset()) -> bool:
    """Whether something is REQUIRED in a message of this kind, or in one inside of it."""
    if _required(descriptor):
        return True
    within = above | {descriptor.full_name}
    kinds = (inner(field) for field in descriptor.fields if field.type == FieldDescriptor.TYPE_MESSAGE)
    return any(_asks(kind, within) for kind in kinds if kind.full_name not in within)


def _missing(message: Message, path: str, records: bool) -> Iterator[Violation]:
    for field in _required(descriptor_of(message)):
        value = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE and not is_repeated(field):
            absent = not message.HasField(field.name)
        else:
            absent = not value and (not field.has_presence or field.type == FieldDescriptor.TYPE_STRING)
            absent = absent or (field.has_presence and not message.HasField(field.name))
        if absent:
            yield _join(path, field.name), "it is required"
    for field in _asking(descriptor_of(message), records):
        if is_repeated(field):
            for index, each in enumerate(getattr(message, field.name)):
                yield from _missing(each, f"{_join(path, field.name)}[{index}]", records)
        elif message.HasField(field.name):
            yield from _missing(getattr(message, field.name), _join(path, field.name), records)
