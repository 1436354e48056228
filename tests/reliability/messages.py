"""Invented messages of any type of the contract, from their descriptors alone."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.contract import descriptor_of, inner
from tests.reliability.texts import TEXTS

_F = FieldDescriptor
_DEPTH = 4
_INTEGERS = {
    _F.TYPE_INT32: (-(2**31), 2**31 - 1), _F.TYPE_SINT32: (-(2**31), 2**31 - 1), _F.TYPE_UINT32: (0, 2**32 - 1),
    _F.TYPE_INT64: (-(2**63), 2**63 - 1), _F.TYPE_SINT64: (-(2**63), 2**63 - 1), _F.TYPE_UINT64: (0, 2**64 - 1),
}  # fmt: skip
_FLOATS = (0.0, 1.0, -1.5, 0.1, 1e300, 5e-324, 2.0**53, 1e21)


def fill(message: Message, dice: random.Random, depth: int = 0) -> Any:
    """Sets about half of a message's fields; every value is one that the type allows."""
    special = _SPECIAL.get(message.DESCRIPTOR.full_name)
    if special is not None:
        special(message, dice)
        return message
    taken: set[str] = set()
    for each in descriptor_of(message).fields:
        oneof = each.containing_oneof.name if each.containing_oneof is not None else ""
        if dice.random() < 0.5 or oneof in taken or (each.message_type is not None and depth >= _DEPTH):
            continue
        if oneof:
            taken.add(oneof)
        _field(message, each, dice, depth)
    return message


def _field(message: Message, field: FieldDescriptor, dice: random.Random, depth: int) -> None:
    target = getattr(message, field.name)
    if field.message_type is not None and inner(field).GetOptions().map_entry:
        _map(target, inner(field), dice, depth)
    elif field.message_type is not None and field.is_repeated:
        for _ in range(dice.randrange(3)):
            fill(target.add(), dice, depth + 1)
    elif field.message_type is not None:
        target.SetInParent()
        fill(target, dice, depth + 1)
    elif field.is_repeated:
        target.extend(scalar(field, dice) for _ in range(dice.randrange(4)))
    else:
        setattr(message, field.name, scalar(field, dice))


def _map(target: Any, entry: Descriptor, dice: random.Random, depth: int) -> None:
    value = entry.fields_by_name["value"]
    for _ in range(dice.randrange(3)):
        key = dice.choice(TEXTS)
        if value.message_type is not None:
            fill(target[key], dice, depth + 1)
        else:
            target[key] = scalar(value, dice)


def scalar(field: FieldDescriptor, dice: random.Random) -> Any:
    """A value of a field that holds no message."""
    if field.enum_type is not None:
        return dice.choice(field.enum_type.values).number
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        return dice.choice((low, high, 0, 1, dice.randint(low, high)))
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return dice.choice((*_FLOATS, dice.uniform(-1e6, 1e6)))
    if field.type == _F.TYPE_BOOL:
        return dice.random() < 0.5
    if field.type == _F.TYPE_BYTES:
        return dice.randbytes(dice.randrange(20))
    return dice.choice(TEXTS)


def _timestamp(message: Any, dice: random.Random) -> None:
    message.seconds = dice.choice((0, -62_135_596_800, 253_402_300_799, dice.randint(-(10**9), 4 * 10**9)))
    message.nanos = dice.choice((0, 1, 1_000, 500_000_000, 999_999_999))


def _duration(message: Any, dice: random.Random) -> None:
    sign = dice.choice((1, -1))
    message.seconds = sign * dice.choice((0, 1, 315_576_000_000, dice.randrange(10**6)))
    message.nanos = sign * dice.choice((0, 1, 1_000, 500_000_000, 999_999_999))


def _mask(message: Any, dice: random.Random) -> None:
    message.paths.extend(dice.sample(("id", "tags", "name", "amount", "custom"), dice.randrange(4)))


def _struct(message: Any, dice: random.Random, depth: int = 0) -> None:
    for _ in range(dice.randrange(3)):
        _value(message.fields[dice.choice(TEXTS)], dice, depth + 1)


def _value(message: Any, dice: random.Random, depth: int = 0) -> None:
    match dice.randrange(4 if depth >= _DEPTH else 6):
        case 0:
            message.null_value = 0
        case 1:
            message.bool_value = dice.random() < 0.5
        case 2:
            message.number_value = dice.choice((*_FLOATS, dice.uniform(-1e6, 1e6)))
        case 3:
            message.string_value = dice.choice(TEXTS)
        case 4:
            message.struct_value.SetInParent()
            _struct(message.struct_value, dice, depth)
        case _:
            message.list_value.SetInParent()
            _list(message.list_value, dice, depth)


def _list(message: Any, dice: random.Random, depth: int = 0) -> None:
    for _ in range(dice.randrange(3)):
        _value(message.values.add(), dice, depth + 1)


def _any(message: Any, dice: random.Random) -> None:
    """Left empty: what it may hold depends on who reads it."""


_SPECIAL: dict[str, Any] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.FieldMask": _mask,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list,
    "google.protobuf.Any": _any,
}
