"""One comparison of a filter: the field it looks at, the value a text means there, and what that is in SQL."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from enum import Enum, auto
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Table,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from chassis import contract, ids
from chassis.contract import inner, is_repeated, refs
from chassis.errors import Failure, Invalid, Reason
from chassis.query.links import link, linked
from chassis.rows import kept

COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    ":": operator.eq,
}


class Kind(Enum):
    """What a comparison looks at."""

    IS_SET = auto()  # whether there is a value
    PLAIN = auto()  # the value
    CONTAINS = auto()  # the text, in part and whatever its case
    HAS = auto()  # the values of a list of texts
    HAS_PART = auto()  # a field of the values of a list of messages
    CURRENCY = auto()  # the currency of a sum of money
    PART = auto()  # a field of a message, as a text
    PART_CONTAINS = auto()  # the same, in part and whatever its case


@dataclass(frozen=True)
class Term:
    """A comparison that can be made: ``comparison`` is one of COMPARISONS, ``value`` what the text means there.

    ``part`` is the field's field that is compared, where one is.
    """

    kind: Kind
    field: FieldDescriptor
    comparison: str
    value: Any
    part: str = ""


def field_of(
    resource: Descriptor,
    name: str,
    allowed: frozenset[str],
    *,
    reason: Reason.ValueType,
    what: str,
    position: int,
) -> FieldDescriptor:
    """The field of that name, where it is among those ``allowed``. Raises Invalid with the nearest name otherwise."""
    field = resource.fields_by_name.get(name)
    if field is not None and name in allowed:
        return field
    near = get_close_matches(name, allowed, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    message = f"unknown field '{name}' at position {position + 1}{hint}"
    raise Invalid(reason, f"{what}: {message}", metadata={"field": name}, violations=[(what, message)])


def resolve(
    resource: Descriptor, columns: Collection[str], allowed: frozenset[str], path: str, position: int,
    comparison: str, value: str, any_value: bool,
) -> Term:  # fmt: skip
    """What ``path comparison value`` asks of a resource that is kept in these columns.

    ``any_value`` where the value is a bare ``*``. Raises Invalid for what cannot be asked.
    """
    name, _, rest = path.partition(".")
    reason = Reason.REASON_FILTER_UNKNOWN_FIELD
    field = field_of(resource, name, allowed, reason=reason, what="filter", position=position)
    if name == "custom":
        raise Invalid(
            Reason.REASON_CUSTOM_FIELD_UNKNOWN,
            f"filter: there is no custom field '{rest}', at position {position + 1}",
            metadata={"field": path},
        )
    if name not in columns:
        raise _invalid(path, f"'{name}' cannot be filtered by")
    if any_value:
        if comparison != ":":
            raise _invalid(path, "'*' goes with ':' only, as in 'email:*'")
        return Term(Kind.IS_SET, field, comparison, None)
    if is_repeated(field):
        return _has(path, rest, comparison, value, field)
    if rest:
        return _inside(path, rest, comparison, value, field)
    wanted = _parse(path, field, value)
    contains = comparison == ":" and isinstance(wanted, str) and not refs(field)
    return Term(Kind.CONTAINS if contains else Kind.PLAIN, field, comparison, wanted)


def _has(path: str, rest: str, comparison: str, value: str, field: FieldDescriptor) -> Term:
    if comparison not in ("=", ":"):
        raise _invalid(path, "it holds several values: only '=' and ':' apply")
    if field.message_type is None:
        if rest:
            raise _invalid(path, f"'{field.name}' has no fields of its own")
        return Term(Kind.HAS, field, comparison, value)
    inner = field.message_type.fields_by_name.get(rest)
    if inner is None or inner.message_type is not None or is_repeated(inner):
        raise _invalid(path, f"name one of {', '.join(_plain_fields(field))} after '{field.name}.'")
    return Term(Kind.HAS_PART, field, comparison, value, rest)


def _inside(path: str, rest: str, comparison: str, value: str, field: FieldDescriptor) -> Term:
    if field.message_type is not None and field.message_type.full_name == "google.type.Money":
        if rest != "currency_code":
            raise _invalid(path, f"compare '{field.name}' itself, or '{field.name}.currency_code'")
        return Term(Kind.CURRENCY, field, comparison, value, rest)
    inner = field.message_type.fields_by_name.get(rest) if field.message_type is not None else None
    ((_, kind), *_) = kept(field).columns
    if inner is None or inner.message_type is not None or not isinstance(kind, JSONB):
        raise _invalid(path, f"'{field.name}' has no field '{rest}' to compare")
    return Term(Kind.PART_CONTAINS if comparison == ":" else Kind.PART, field, comparison, value, rest)


def in_sql(term: Term, table: FromClause) -> ColumnElement[bool]:
    """The condition of a comparison on the rows of the resource's table. `matching` says the same of a record."""
    column: Any = table.c[term.field.name]
    found: Any
    compare, value = COMPARISONS[term.comparison], term.value
    match term.kind:
        case Kind.IS_SET if is_repeated(term.field):
            size = func.jsonb_array_length(column) if term.field.message_type else func.cardinality(column)
            found = size > 0
        case Kind.IS_SET:
            found = column.is_not(None)
        case Kind.CONTAINS:
            found = column.icontains(value, autoescape=True)
        case Kind.HAS:
            found = literal(value) == any_(column)
            resource = term.field.containing_type
            if resource is not None and term.field.name in linked(resource):
                found = and_(_naming(term, resource, table), found)
        case Kind.HAS_PART:
            found = column.contains(cast(bindparam(None, [{term.part: value}], type_=JSONB, unique=True), JSONB))
        case Kind.CURRENCY:
            found = compare(table.c[f"{term.field.name}_currency"], value)
        case Kind.PART_CONTAINS:
            found = column[term.part].astext.icontains(value, autoescape=True)
        case Kind.PART:
            found = compare(column[term.part].astext, value)
        case _:
            found = column.is_distinct_from(value) if term.comparison == "!=" else compare(column, value)
    return found  # type: ignore[no-any-return]


def _naming(term: Term, resource: Descriptor, table: FromClause) -> ColumnElement[bool]:
    """The records that name another one in a field of several, by an index (links.py)."""
    assert isinstance(table, Table)
    terms = table.metadata.tables["search_terms"]
    prefix = contract.load().by_message[resource.full_name].prefix
    of_record: ColumnElement[Any] = table.c.id
    return of_record.in_(
        select(terms.c.id).where(
            terms.c.tenant_id == bindparam("tenant"),
            terms.c.resource == literal_column(f"'{prefix}'"),
            terms.c.term == link(term.field.name, term.value),
        )
    )


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
