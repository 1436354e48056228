"""One comparison of a filter: the column a field is kept in, and the value a text means there."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import ColumnElement, Table, any_, bindparam, cast, func, literal
from sqlalchemy.dialects.postgresql import JSONB

from chassis import context, ids
from chassis.contract import inner, is_repeated, refs
from chassis.errors import Failure, Invalid, Reason

COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    ":": operator.eq,
}


def field_of(resource: Descriptor, name: str, *, reason: Reason.ValueType, what: str, position: int) -> FieldDescriptor:
    """The field of that name, where the caller may filter by it. Raises Invalid with the nearest name otherwise."""
    allowed = context.fields(resource).filterable
    field = resource.fields_by_name.get(name)
    if field is not None and name in allowed:
        return field
    near = get_close_matches(name, allowed, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    message = f"unknown field '{name}' at position {position + 1}{hint}"
    raise Invalid(reason, f"{what}: {message}", metadata={"field": name}, violations=[(what, message)])


def compare(
    resource: Descriptor, table: Table, path: str, position: int, comparison: str, value: str, any_value: bool
) -> ColumnElement[bool]:
    """The condition of ``path comparison value``; ``any_value`` where the value is a bare ``*``."""
    name, _, rest = path.partition(".")
    field = field_of(resource, name, reason=Reason.REASON_FILTER_UNKNOWN_FIELD, what="filter", position=position)
    if name == "custom":
        raise Invalid(
            Reason.REASON_CUSTOM_FIELD_UNKNOWN,
            f"filter: there is no custom field '{rest}', at position {position + 1}",
            metadata={"field": path},
        )
    if name not in table.c:
        raise _invalid(path, f"'{name}' cannot be filtered by")
    column = table.c[name]
    if any_value:
        return _is_set(path, comparison, field, column)
    if is_repeated(field):
        return _has(path, rest, comparison, value, field, column)
    if rest:
        return _inside(path, rest, comparison, value, field, table)
    wanted = _parse(path, field, value)
    if comparison == ":" and isinstance(wanted, str) and not refs(field):
        return column.icontains(wanted, autoescape=True)
    if comparison == "!=":
        return column.is_distinct_from(wanted)
    return COMPARISONS[comparison](column, wanted)  # type: ignore[no-any-return]


def _is_set(path: str, comparison: str, field: FieldDescriptor, column: Any) -> ColumnElement[bool]:
    if comparison != ":":
        raise _invalid(path, "'*' goes with ':' only, as in 'email:*'")
    if is_repeated(field):
        size = func.jsonb_array_length(column) if field.message_type else func.cardinality(column)
        return size > 0
    return column.is_not(None)  # type: ignore[no-any-return]


def _has(path: str, rest: str, comparison: str, value: str, field: FieldDescriptor, column: Any) -> ColumnElement[bool]:
    if comparison not in ("=", ":"):
        raise _invalid(path, "it holds several values: only '=' and ':' apply")
    if field.message_type is None:
        if rest:
            raise _invalid(path, f"'{field.name}' has no fields of its own")
        return literal(value) == any_(column)
    inner = field.message_type.fields_by_name.get(rest)
    if inner is None or inner.message_type is not None or is_repeated(inner):
        raise _invalid(path, f"name one of {', '.join(_plain_fields(field))} after '{field.name}.'")
    return column.contains(cast(bindparam(None, [{rest: value}], type_=JSONB, unique=True), JSONB))  # type: ignore[no-any-return]


def _inside(
    path: str, rest: str, comparison: str, value: str, field: FieldDescriptor, table: Table
) -> ColumnElement[bool]:
    column = table.c[field.name]
    if field.message_type is not None and field.message_type.full_name == "google.type.Money":
        if rest != "currency_code":
            raise _invalid(path, f"compare '{field.name}' itself, or '{field.name}.currency_code'")
        return COMPARISONS[comparison](table.c[f"{field.name}_currency"], value)  # type: ignore[no-any-return]
    inner = field.message_type.fields_by_name.get(rest) if field.message_type is not None else None
    if inner is None or inner.message_type is not None or not isinstance(column.type, JSONB):
        raise _invalid(path, f"'{field.name}' has no field '{rest}' to compare")
    text = column[rest].astext
    if comparison == ":":
        return text.icontains(value, autoescape=True)  # type: ignore[no-any-return]
    return COMPARISONS[comparison](text, value)  # type: ignore[no-any-return]


def _plain_fields(field: FieldDescriptor) -> list[str]:
    return [each.name for each in inner(field).fields if each.message_type is None and not is_repeated(each)]


def _parse(path: str, field: FieldDescriptor, value: str) -> Any:
    try:
        if field.message_type is not None:
            return _parse_message(field.message_type.full_name, value)
        if field.enum_type is not None:
            return _parse_enum(field, value)
        if prefixes := refs(field):
            return _parse_id(prefixes, value)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return {"true": True, "false": False}[value]
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return float(value)
        if field.type != FieldDescriptor.TYPE_STRING:
            return _parse_int(field, value)
        return value
    except Failure:
        raise
    except (ValueError, KeyError, InvalidOperation, OverflowError) as error:
        raise _invalid(path, f"'{value}' is no value for it: {_expectation(field)}") from error


def _parse_message(kind: str, value: str) -> Any:
    if kind == "google.protobuf.Timestamp":
        stamp = Timestamp()
        stamp.FromJsonString(value if "T" in value else f"{value}T00:00:00Z")
        return stamp.ToDatetime(tzinfo=dt.UTC)
    if kind == "google.protobuf.Duration":
        duration = Duration()
        duration.FromJsonString(value)
        return duration.ToTimedelta()
    if kind == "google.type.Date":
        return dt.date.fromisoformat(value)
    if kind == "google.type.Money":
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError(value)
        return number
    raise ValueError(kind)


def _parse_enum(field: FieldDescriptor, value: str) -> int:
    assert field.enum_type is not None
    values = field.enum_type.values_by_name
    prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
    found = values.get(value) or values[f"{prefix}{value}"]
    return int(found.number)


def _parse_int(field: FieldDescriptor, value: str) -> int:
    number = int(value)
    limit = 1 << (31 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63)
    if not -limit <= number < limit:
        raise OverflowError(value)
    return number


def _parse_id(prefixes: tuple[str, ...], value: str) -> Any:
    prefix, uuid = ids.decode(value)
    if prefixes == ("*",):
        return value
    if prefix not in prefixes:
        raise ValueError(value)
    return uuid if len(prefixes) == 1 else value


def _expectation(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return f"it is one of {', '.join(each.name for each in field.enum_type.values[1:])}"
    if prefixes := refs(field):
        return f"it is an id such as '{prefixes[0].replace('*', 'contact')}_01h455vb4pex5vsknk084sn02q'"
    if field.message_type is not None:
        return {
            "google.protobuf.Timestamp": 'it is a time such as "2026-01-31T12:00:00Z"',
            "google.protobuf.Duration": 'it is a duration such as "3.5s"',
            "google.type.Date": 'it is a date such as "2026-01-31"',
            "google.type.Money": "it is a number",
        }.get(field.message_type.full_name, "name one of its fields after a dot")
    return "it is true or false" if field.type == FieldDescriptor.TYPE_BOOL else "it is a number"


def _invalid(path: str, message: str) -> Invalid:
    return Invalid(
        Reason.REASON_FILTER_INVALID,
        f"filter: '{path}': {message}",
        metadata={"field": path},
        violations=[("filter", f"'{path}': {message}")],
    )
