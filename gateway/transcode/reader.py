"""Proto JSON in: a parsed JSON value becomes a message, strictly.

Names are the proto's own, in snake_case. What is unknown, doubled, of the wrong type or out of range is a
fault that names its place; nothing is dropped. The fault does not repeat the value: it may be personal.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.errors import Reason
from gateway.transcode.fault import Fault
from gateway.transcode.scalars import Convert, converter, kind, members, snake, text
from gateway.transcode.well_known import WELL_KNOWN, Fill

_F = FieldDescriptor


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
        special = WELL_KNOWN.get(descriptor.full_name)
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
        given = members(value)
        fields = self.fields(descriptor)
        oneofs = self._oneofs[descriptor.full_name]
        if oneofs:
            _refuse_two_of_one(given, oneofs)
        for name, member in given.items():
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
            for member, content in members(value).items():
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


def _refuse_two_of_one(given: Mapping[str, Any], oneofs: dict[str, str]) -> None:
    chosen: dict[str, str] = {}
    for name, value in given.items():
        oneof = oneofs.get(name)
        if oneof is None or value is None:
            continue
        if oneof in chosen:
            raise Fault(f"only one of '{chosen[oneof]}' and '{name}' may be set").within(name)
        chosen[oneof] = name


def unknown_field(name: str, known: Mapping[str, Any]) -> Fault:
    """The fault of a name that does not exist, with the one that was probably meant."""
    plain = snake(name)
    near = [plain] if plain in known else difflib.get_close_matches(name[:64], known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else _choices("; it may be", list(known))
    return Fault(f"there is no such field{hint}", Reason.REASON_FIELD_UNKNOWN).within(name)


def _choices(lead: str, names: list[str]) -> str:
    return f"{lead} one of {', '.join(names)}" if 0 < len(names) <= 30 else ""
