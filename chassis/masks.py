"""Field masks (AIP-161): which fields a caller wants to read, and which an update changes to what."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from chassis import context
from chassis.contract import descriptor_of, is_output_only, is_repeated
from chassis.errors import Invalid, Reason

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
    writable = context.fields(descriptor_of(after)).writable
    for path in paths:
        name, _, rest = path.partition(".")
        field = descriptor_of(after).fields_by_name.get(name)
        if field is None or name not in writable:
            raise _unknown("update_mask", name, writable)
        if name in _IDENTITY or is_output_only(field):
            raise _invalid(path, "only the server sets it; changes of state have methods of their own")
        if rest:
            _apply_inside(after, patch, field, rest, path)
        else:
            _copy(after, patch, field)


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
