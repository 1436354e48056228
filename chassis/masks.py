"""Field masks (AIP-161): which fields a caller wants to read, and which an update changes to what."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from chassis import context
from chassis.contract import descriptor_of, is_output_only, is_repeated, is_resource
from chassis.errors import Denied, Invalid, Reason

# Said with the record, never changed by it.
_IDENTITY = frozenset({"id", "etag"})


def wanted(mask: FieldMask, resource: Descriptor) -> frozenset[str] | None:
    """The top-level fields that a read mask names, and the id; None for all of them.

    Raises Invalid, FIELD_UNKNOWN, for a field that does not exist.
    """
    readable = context.fields(resource).readable
    if not mask.paths or list(mask.paths) == ["*"]:
        return None if len(readable) == len(resource.fields) else readable
    names = {path.partition(".")[0] for path in mask.paths}
    for name in sorted(names - readable):
        raise _unknown("read_mask", name, readable)
    return frozenset(names | {"id"})


def present(resource: Message) -> list[str]:
    """The paths of the fields that are set: what an update without a mask changes."""
    paths: list[str] = []
    for field, value in resource.ListFields():
        if field.name in _IDENTITY or is_output_only(field):
            continue
        if field.name == "custom":
            paths += [f"custom.{key}" for key in value.fields]
        else:
            paths.append(field.name)
    return paths


def apply(after: Message, patch: Message, paths: Iterable[str]) -> None:
    """Changes ``after`` to what ``patch`` says in the fields that ``paths`` name; a field without value is cleared.

    Raises Invalid where a path names no field (FIELD_UNKNOWN) or one that only the server sets (FIELD_INVALID).
    """
    may = context.fields(descriptor_of(after))
    for path in paths:
        name, _, rest = path.partition(".")
        field = descriptor_of(after).fields_by_name.get(name)
        if field is None or name not in may.readable:
            raise _unknown("update_mask", name, may.readable)
        if name in _IDENTITY or is_output_only(field):
            raise _invalid(path, "only the server sets it; changes of state have methods of their own")
        if name not in may.writable and not _same(after, patch, field):
            raise _read_only(name)
        if rest:
            _apply_inside(after, patch, field, rest, path)
        else:
            _copy(after, patch, field)


def check_writable(record: Message) -> None:
    """Raises Invalid (FIELD_UNKNOWN) or Denied where a record sets a field that the caller may not read, or write."""
    descriptor = descriptor_of(record)
    may = context.fields(descriptor)
    if len(may.writable) < len(descriptor.fields):
        for field, _ in record.ListFields():
            check_field(field.name, may)


def check_readable(record: Message) -> None:
    """Raises Invalid, FIELD_UNKNOWN, where a record sets a field that the caller may not read."""
    readable = context.fields(descriptor_of(record)).readable
    for field, _ in record.ListFields():
        if field.name not in readable:
            raise _unknown(field.name, field.name, readable)


def check_named(where: str, name: str, resource: Descriptor) -> None:
    """Raises Invalid, FIELD_UNKNOWN, where a request names a field of a record that the caller may not read."""
    readable = context.fields(resource).readable
    if name not in readable:
        raise _unknown(where, name, readable)


def check_made_of(resource: Descriptor, names: Iterable[str]) -> None:
    """Raises Denied where an answer is made of fields of records that the caller may not read."""
    for name in sorted(set(names) - context.fields(resource).readable):
        raise Denied(
            Reason.REASON_PERMISSION_DENIED,
            f"this is made of a field that you may not read: '{name}' of {resource.name}",
            metadata={"field": name},
        )


def check_field(name: str, may: context.Fields) -> None:
    """Raises Invalid (FIELD_UNKNOWN) for a field that the caller may not read, Denied for one it may not write."""
    if name not in may.readable:
        raise _unknown(name, name, may.readable)
    if name not in may.writable:
        raise _read_only(name)


def check_request(request: Message, resource: Descriptor, *, records: bool) -> None:
    """Raises like `check_field` where a request writes a field of ``resource`` that the caller may not.

    What a method takes beside a record, under the name of one of the record's fields, is written there. ``records``
    that stand in the request are looked at too; the standard methods do that themselves.
    """
    for field, value in request.ListFields():
        if field.message_type is not None and field.message_type.file.package.startswith("crm."):
            for each in value if is_repeated(field) else (value,):
                if not is_resource(field.message_type):
                    check_request(each, resource, records=records)
                elif records:
                    check_writable(each)
        elif field.name in resource.fields_by_name and field.name not in _IDENTITY:
            check_field(field.name, context.fields(resource))


def hide(message: Message) -> None:
    """Takes out of a message, and of all messages inside, what the caller may not read of the records there."""
    descriptor = descriptor_of(message)
    if is_resource(descriptor):
        readable = context.fields(descriptor).readable
        for field, _ in message.ListFields():
            if field.name not in readable:
                message.ClearField(field.name)
    for field, value in message.ListFields():
        if field.message_type is None or not _holds_records(field.message_type, frozenset()):
            continue
        if not is_repeated(field):
            hide(value)
        elif field.message_type.GetOptions().map_entry:
            for each in value.values():
                hide(each)
        else:
            for each in value:
                hide(each)


def records_in(message: Any, kind: str) -> list[Any]:
    """The records of the kind with this full name in a message: itself, or those inside."""
    descriptor = descriptor_of(message)
    if descriptor.full_name == kind:
        return [message]
    found: list[Any] = []
    for field, value in message.ListFields():
        if field.message_type is not None and _holds_records(field.message_type, frozenset()):
            for each in value if is_repeated(field) else (value,):
                found += records_in(each, kind)
    return found


@cache
def _holds_records(descriptor: Descriptor, above: frozenset[str]) -> bool:
    """Whether a record may be inside a message of this kind."""
    if is_resource(descriptor):
        return True
    seen = above | {descriptor.full_name}
    inner = (each.message_type for each in descriptor.fields if each.message_type is not None)
    return any(each.full_name not in seen and _holds_records(each, seen) for each in inner)


def _same(after: Message, patch: Message, field: FieldDescriptor) -> bool:
    """Whether a patch repeats what a field holds: a client may send back what it got."""
    if field.has_presence and after.HasField(field.name) != patch.HasField(field.name):
        return False
    return bool(getattr(after, field.name) == getattr(patch, field.name))


def _read_only(name: str) -> Denied:
    message = "you may read it, not write it"
    return Denied(
        Reason.REASON_PERMISSION_DENIED,
        f"{name}: {message}",
        metadata={"field": name},
        violations=[(name, message)],
    )


def _apply_inside(after: Message, patch: Message, field: FieldDescriptor, rest: str, path: str) -> None:
    if field.name == "custom":
        key = rest.strip("`")
        after_fields, patch_fields = after.custom.fields, patch.custom.fields  # type: ignore[attr-defined]
        if key in patch_fields and patch_fields[key].WhichOneof("kind") != "null_value":
            after_fields[key].CopyFrom(patch_fields[key])
        elif key in after_fields:
            del after_fields[key]
        return
    if field.message_type is None or is_repeated(field):
        raise _invalid(path, f"'{field.name}' is changed as a whole")
    name, _, deeper = rest.partition(".")
    inner = field.message_type.fields_by_name.get(name)
    if inner is None:
        raise _unknown("update_mask", path, [each.name for each in field.message_type.fields])
    here, there = getattr(after, field.name), getattr(patch, field.name)
    if deeper:
        _apply_inside(here, there, inner, deeper, path)
    else:
        _copy(here, there, inner)


def _copy(after: Message, patch: Message, field: FieldDescriptor) -> None:
    has = patch.HasField(field.name) if field.has_presence else True
    after.ClearField(field.name)
    if not has:
        return
    value: Any = getattr(patch, field.name)
    if is_repeated(field):
        getattr(after, field.name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(after, field.name).CopyFrom(value)
    else:
        setattr(after, field.name, value)


def _unknown(where: str, name: str, known: Iterable[str]) -> Invalid:
    near = get_close_matches(name, list(known), n=1)
    message = f"there is no field '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
    return Invalid(
        Reason.REASON_FIELD_UNKNOWN,
        f"{where}: {message}",
        metadata={"field": name},
        violations=[(where, message)],
    )


def _invalid(path: str, message: str) -> Invalid:
    return Invalid(
        Reason.REASON_FIELD_INVALID,
        f"update_mask: '{path}': {message}",
        metadata={"field": path},
        violations=[("update_mask", f"'{path}': {message}")],
    )
