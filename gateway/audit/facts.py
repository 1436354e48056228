"""What the contract says of a method to the log of reads: whether it tells of people, and what an answer shows."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from crm.type.v1.audit_entry_pb2 import AUDIT_KIND_READ, AUDIT_KIND_UNSPECIFIED, AUDIT_KIND_WRITE
from google.protobuf.descriptor import Descriptor

from chassis.context import Caller, fields_for, owners_for
from chassis.contract import Method, ResourceType, is_personal, is_repeated, is_resource, load, refs

# It tells of nobody itself, but what it makes opens the services' own doors, where no log of reads is kept.
_OPENS: Final = frozenset({"/crm.gateway.v1.TokenService/CreateToken"})


class Facts(NamedTuple):
    """A method as the log sees it.

    ``name`` is what entries call it; ``kind`` is that of the entry about an answer, or AUDIT_KIND_UNSPECIFIED where
    there is none; ``resource`` is the prefix of the records it is about, or empty; ``rows`` is the number of the field
    that holds a list's rows, or 0; ``ids`` the number of that field of a row which holds its record's id, or 0;
    ``by_id`` says that the request begins with one.
    """

    name: str
    kind: int
    resource: str
    rows: int
    ids: int
    by_id: bool


# Of a call whose method is not known.
NO_FACTS: Final = Facts("", AUDIT_KIND_UNSPECIFIED, resource="", rows=0, ids=0, by_id=False)


def facts_of(method: Method) -> Facts:
    """What the contract says of a method."""
    found = _known.get(method.path)
    if found is None:
        found = _known[method.path] = _facts(method)
    return found


_known: dict[str, Facts] = {}


def _facts(method: Method) -> Facts:
    answer = method.descriptor.output_type
    first = next(iter(answer.fields), None)
    rows = first if first is not None and is_repeated(first) else None
    inside = rows.message_type if rows is not None else None
    asked = next(iter(method.descriptor.input_type.fields), None)
    kind = _served(method)
    return Facts(
        name=method.path[1:],
        kind=_kind(method),
        resource=kind.prefix if kind is not None else "",
        rows=rows.number if rows is not None else 0,
        ids=_id_of(inside) if inside is not None else 0,
        by_id=asked is not None and asked.number == 1 and bool(refs(asked)) and not is_repeated(asked),
    )


def _kind(method: Method) -> int:
    if method.emits or not (method.streams or tells_of_people(method.descriptor.output_type) or method.path in _OPENS):
        # A ledger knows of it, or there is nothing to know.
        return AUDIT_KIND_UNSPECIFIED
    return AUDIT_KIND_WRITE if method.writes else AUDIT_KIND_READ


def _id_of(row: Descriptor) -> int:
    field = row.fields_by_name.get("id")
    return field.number if field is not None and (is_resource(row) or refs(field)) else 0


def tells_of_people(message: Descriptor, above: frozenset[str] = frozenset()) -> bool:
    """Whether a message, or one inside it, has a field that the contract says is personal."""
    seen = above | {message.full_name}
    return any(
        is_personal(field)
        if field.message_type is None
        else field.message_type.full_name not in seen and tells_of_people(field.message_type, seen)
        for field in message.fields
    )


def _served(method: Method) -> ResourceType | None:
    return load().by_message.get(method.service.removesuffix("Service"))


@cache
def kinds_of(name: str) -> tuple[ResourceType, ...]:
    """The records that a method is about, by the name that entries give it; every kind where it is about no one."""
    method = load().methods.get(f"/{name}")
    kind = _served(method) if method is not None else None
    return tuple(load().resources.values()) if kind is None else (kind,)


def sees_all(caller: Caller, name: str) -> bool:
    """Whether a caller sees every record that a method may have shown: then it may know that it was called."""
    return all(
        caller.may(load().read_permission(kind)) and owners_for(caller, kind.descriptor) is None
        for kind in kinds_of(name)
    )


def sees_every_field(caller: Caller, name: str) -> bool:
    """Whether no field of these records is hidden from a caller: then it may know what was asked about them."""
    return all(
        len(fields_for(caller, kind.descriptor).readable) == len(kind.descriptor.fields) for kind in kinds_of(name)
    )
