"""Messages and rows: which column keeps which field, by the field's name and type.

``*_id`` → uuid (text where it may point at several kinds), Timestamp → timestamptz, Money → numeric and
``<field>_currency``, enum → smallint, repeated text → text[], any other message → jsonb.
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
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
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
from sqlalchemy.engine import RowMapping
from sqlalchemy.types import TypeEngine

from chassis import ids
from chassis.contract import descriptor_of, inner, is_repeated, refs
from chassis.errors import OutOfRange, Reason

M = TypeVar("M", bound=Message)
# A row by its columns' names.
Row = Mapping[str, Any] | RowMapping

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
    """How a field is kept: its columns, and the two ways between a message and them."""

    columns: tuple[tuple[str, TypeEngine[Any]], ...]
    store: Callable[[Message], tuple[Any, ...]]
    load: Callable[[Message, tuple[Any, ...]], None]
    required: bool = False


def timestamp(moment: dt.datetime) -> Timestamp:
    """A time as protobuf has it."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def moment(stamp: Timestamp) -> dt.datetime:
    """A protobuf time as an aware datetime in UTC, to the microsecond."""
    return stamp.ToDatetime(tzinfo=dt.UTC)


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
        return _reference(field, prefixes)
    presence = field.has_presence

    def store(message: Message) -> tuple[Any, ...]:
        value = getattr(message, name)
        if presence:
            return (value if message.HasField(name) else None,)
        return (value if value or field.type == FieldDescriptor.TYPE_ENUM else None,)

    def load(message: Message, values: tuple[Any, ...]) -> None:
        if values[0] is not None:
            setattr(message, name, values[0])

    return Kept(((name, _SCALARS[field.type]()),), store, load)


def _reference(field: FieldDescriptor, prefixes: tuple[str, ...]) -> Kept:
    name = field.name
    if len(prefixes) > 1 or prefixes == ("*",):

        def store_text(message: Message) -> tuple[Any, ...]:
            return (getattr(message, name) or None,)

        def load_text(message: Message, values: tuple[Any, ...]) -> None:
            if values[0] is not None:
                setattr(message, name, values[0])

        return Kept(((name, Text()),), store_text, load_text)
    prefix = prefixes[0]

    def store(message: Message) -> tuple[Any, ...]:
        value = getattr(message, name)
        return (ids.decode(value)[1] if value else None,)

    def load(message: Message, values: tuple[Any, ...]) -> None:
        if values[0] is not None:
            setattr(message, name, ids.encode(prefix, values[0]))

    return Kept(((name, Uuid()),), store, load, required=name == "id")


def _repeated(field: FieldDescriptor) -> Kept:
    name = field.name
    if field.type == FieldDescriptor.TYPE_MESSAGE:

        def store_messages(message: Message) -> tuple[Any, ...]:
            return ([MessageToDict(each, preserving_proto_field_name=True) for each in getattr(message, name)],)

        def load_messages(message: Message, values: tuple[Any, ...]) -> None:
            for each in values[0] or ():
                ParseDict(each, getattr(message, name).add())

        return Kept(((name, JSONB()),), store_messages, load_messages, required=True)

    def store(message: Message) -> tuple[Any, ...]:
        return (list(getattr(message, name)),)

    def load(message: Message, values: tuple[Any, ...]) -> None:
        getattr(message, name).extend(values[0] or ())

    return Kept(((name, ARRAY(Text)),), store, load, required=True)


def _message(field: FieldDescriptor) -> Kept:
    name = field.name
    special = _SPECIAL.get(inner(field).full_name)
    if special is not None:
        types, to_values, to_message = special

        def store_special(message: Message) -> tuple[Any, ...]:
            return to_values(getattr(message, name)) if message.HasField(name) else (None,) * len(types)

        def load_special(message: Message, values: tuple[Any, ...]) -> None:
            if values[0] is not None:
                getattr(message, name).CopyFrom(to_message(*values))

        suffixes = ("", "_currency")
        return Kept(
            tuple((name + suffixes[index], kind()) for index, kind in enumerate(types)),
            store_special,
            load_special,
        )

    def store(message: Message) -> tuple[Any, ...]:
        if not message.HasField(name):
            return (None,)
        return (MessageToDict(getattr(message, name), preserving_proto_field_name=True),)

    def load(message: Message, values: tuple[Any, ...]) -> None:
        if values[0] is not None:
            ParseDict(values[0], getattr(message, name))

    return Kept(((name, JSONB(none_as_null=True)),), store, load)


def _duration(value: dt.timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(value)
    return duration


_SPECIAL: Final[dict[str, tuple[tuple[Any, ...], Callable[[Any], tuple[Any, ...]], Callable[..., Message]]]] = {
    "google.protobuf.Timestamp": ((lambda: DateTime(timezone=True),), lambda it: (moment(it),), timestamp),
    "google.protobuf.Duration": ((Interval,), lambda it: (it.ToTimedelta(),), _duration),
    "google.type.Date": (
        (SqlDate,),
        lambda it: (dt.date(it.year, it.month, it.day),),
        lambda it: Date(year=it.year, month=it.month, day=it.day),
    ),
    "google.type.Money": ((Numeric, Text), lambda it: (amount(it), it.currency_code), money),
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


class Codec(Generic[M]):
    """Both ways between a resource's messages and its table's rows."""

    def __init__(self, message: type[M], transient: frozenset[str] = frozenset()) -> None:
        self._message = message
        self._fields = [
            (field.name, kept(field))
            for field in descriptor_of(message).fields
            if field.name not in transient and field.name != "etag"
        ]

    def row(self, message: M) -> dict[str, Any]:
        """The values of every column but tenant and revision."""
        values: dict[str, Any] = {}
        for _, how in self._fields:
            for (column, _), value in zip(how.columns, how.store(message), strict=True):
                values[column] = value
        return values

    def message(self, row: Row, wanted: frozenset[str] | None = None) -> M:
        """The record of a row; only the fields ``wanted``, where given."""
        message = self._message()
        for name, how in self._fields:
            if wanted is None or name in wanted:
                how.load(message, tuple(row[column] for column, _ in how.columns))
        if (wanted is None or "etag" in wanted) and "etag" in message.DESCRIPTOR.fields_by_name:
            message.etag = etag(row["revision"])  # type: ignore[attr-defined]
        return message


def uuid_of(text: str) -> UUID:
    """The UUID inside an id that was checked before."""
    return ids.decode(text)[1]
