"""Messages and rows: which column shows which field to filters, order and keys, by the field's name and type.

``*_id`` → uuid (text where it may point at several kinds), Timestamp → timestamptz, Money → numeric and
``<field>_currency``, enum → smallint, repeated text → text[], any other message → jsonb of what can be asked of it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    Interval,
    Numeric,
    SmallInteger,
    Text,
    Uuid,
)
from sqlalchemy import Date as SqlDate
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine

from chassis import ids
from chassis.contract import descriptor_of, inner, is_repeated, refs
from chassis.errors import OutOfRange, Reason

M = TypeVar("M", bound=Message)
# A row by its columns' names.
Row = Mapping[str, Any]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NANO: Final = Decimal(1_000_000_000)
# google.type.Money counts units in 64 bits.
_MONEY_END: Final = 2**63
_SCALARS: Final[dict[int, Any]] = {
    FieldDescriptor.TYPE_STRING: Text,
    FieldDescriptor.TYPE_BOOL: Boolean,
    FieldDescriptor.TYPE_INT32: Integer,
    FieldDescriptor.TYPE_INT64: BigInteger,
    FieldDescriptor.TYPE_DOUBLE: Double,
    FieldDescriptor.TYPE_ENUM: SmallInteger,
}


@dataclass(frozen=True)
class Kept:
    """How a field is kept beside its record: the columns, and the values that a message has for them."""

    columns: tuple[tuple[str, TypeEngine[Any]], ...]
    values: Callable[[Message], tuple[Any, ...]]
    required: bool = False


# protobuf's own ways to and from datetimes cost two to four times as much, and each record has several times.
def timestamp(moment: dt.datetime) -> Timestamp:
    """An aware time as protobuf has it."""
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def moment(stamp: Timestamp) -> dt.datetime:
    """A protobuf time as an aware datetime in UTC, to the microsecond. Raises ValueError for one beyond the years."""
    try:
        return _EPOCH + dt.timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)
    except OverflowError as error:
        raise ValueError("a time lies between the years 1 and 9999") from error


def amount(money: Money) -> Decimal:
    """The exact value of a sum of money, in its currency's unit."""
    return Decimal(money.units) + Decimal(money.nanos) / _NANO


def money(value: Decimal, currency: str) -> Money:
    """An exact sum of money. Nine decimal places are kept (google.type.Money).

    Raises OutOfRange for a sum that is too large for one.
    """
    units = int(value)
    if abs(units) >= _MONEY_END:
        raise OutOfRange(Reason.REASON_FIELD_INVALID, f"the sum in {currency} is larger than 64 bits of units")
    return Money(currency_code=currency, units=units, nanos=int((value - units) * _NANO))


@cache
def kept(field: FieldDescriptor) -> Kept:
    """How ``field`` is kept in a table."""
    name = field.name
    if is_repeated(field):
        return _repeated(field)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _message(field)
    if field.type == FieldDescriptor.TYPE_STRING and (prefixes := refs(field)):
        return _reference(name, prefixes)
    presence = field.has_presence

    def values(message: Message) -> tuple[Any, ...]:
        value = getattr(message, name)
        if presence:
            return (value if message.HasField(name) else None,)
        return (value if value or field.type == FieldDescriptor.TYPE_ENUM else None,)

    return Kept(((name, _SCALARS[field.type]()),), values)


def _reference(name: str, prefixes: tuple[str, ...]) -> Kept:
    if len(prefixes) > 1 or prefixes == ("*",):
        return Kept(((name, Text()),), lambda message: (getattr(message, name) or None,))

    def values(message: Message) -> tuple[Any, ...]:
        value = getattr(message, name)
        return (ids.decode(value)[1] if value else None,)

    return Kept(((name, Uuid()),), values, required=name == "id")


def _repeated(field: FieldDescriptor) -> Kept:
    name = field.name
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return Kept(((name, JSONB()),), lambda message: ([_json(it) for it in getattr(message, name)],), required=True)
    return Kept(((name, ARRAY(Text)),), lambda message: (list(getattr(message, name)),), required=True)


def _message(field: FieldDescriptor) -> Kept:
    name = field.name
    types, values_of = _SPECIAL.get(inner(field).full_name, _AS_JSON)

    def values(message: Message) -> tuple[Any, ...]:
        return values_of(getattr(message, name)) if message.HasField(name) else (None,) * len(types)

    suffixes = ("", "_currency")
    return Kept(tuple((name + suffixes[index], kind()) for index, kind in enumerate(types)), values)


def _json(message: Message) -> dict[str, Any]:
    """What filters may ask of a message: its plain fields, as protobuf's JSON has them.

    protobuf's own way costs ten times as much, most of it for times that nobody can ask for.
    """
    found: dict[str, Any] = {}
    for name, has_presence, names in _plain_fields(message.DESCRIPTOR):
        value = getattr(message, name)
        if message.HasField(name) if has_presence else value:
            found[name] = names.get(value, value)
    return found


@cache
def _plain_fields(message: Descriptor) -> tuple[tuple[str, bool, Mapping[Any, str]], ...]:
    """Name, presence, and the names of an enum's values, of each field that is one text, number or the like."""
    return tuple(
        (
            each.name,
            each.has_presence,
            {value.number: value.name for value in each.enum_type.values} if each.enum_type else {},
        )
        for each in message.fields
        if each.message_type is None and not is_repeated(each)
    )


_Special = tuple[tuple[Callable[[], Any], ...], Callable[[Any], tuple[Any, ...]]]
_AS_JSON: Final[_Special] = (lambda: JSONB(none_as_null=True),), lambda it: (_json(it),)
_SPECIAL: Final[dict[str, _Special]] = {
    "google.protobuf.Timestamp": ((lambda: DateTime(timezone=True),), lambda it: (moment(it),)),
    "google.protobuf.Duration": ((Interval,), lambda it: (it.ToTimedelta(),)),
    "google.type.Date": ((SqlDate,), lambda it: (dt.date(it.year, it.month, it.day),)),
    "google.type.Money": ((Numeric, Text), lambda it: (amount(it), it.currency_code)),
}


def columns_of(message: Descriptor, transient: frozenset[str] = frozenset()) -> list[Column[Any]]:
    """The columns that keep a resource's fields, in the order of the fields. ``etag`` is its revision."""
    return [
        Column(name, kind, nullable=not how.required)
        for field in message.fields
        if field.name not in transient and field.name != "etag"
        for how in (kept(field),)
        for name, kind in how.columns
    ]


def etag(revision: int) -> str:
    """The etag of a revision: the number in quotes (RFC 9110, section 8.8.3)."""
    return f'"{revision}"'


class Columns(Generic[M]):
    """What a resource's columns hold of a message."""

    def __init__(self, message: type[M], transient: frozenset[str] = frozenset()) -> None:
        self._kept = {
            field.number: kept(field)
            for field in descriptor_of(message).fields
            if field.name not in transient and field.name != "etag"
        }
        self._unset: dict[str, Any] = {}
        for how in self._kept.values():
            if not how.required or how.columns[0][0] != "id":
                self._unset.update(zip(_names(how), how.values(message()), strict=True))

    def of(self, message: M) -> dict[str, Any]:
        """The values of every column made from a field."""
        values = dict(self._unset)
        for field, _ in message.ListFields():
            how = self._kept.get(field.number)
            if how is not None:
                values.update(zip(_names(how), how.values(message), strict=True))
        return values


@cache
def _names(how: Kept) -> tuple[str, ...]:
    return tuple(name for name, _ in how.columns)


def uuid_of(text: str) -> UUID:
    """The UUID inside an id that was checked before."""
    return ids.decode(text)[1]
