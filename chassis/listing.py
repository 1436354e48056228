"""The statement of a list, made once for each shape of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from sqlalchemy import bindparam, func, select
from sqlalchemy.sql import Executable

from chassis.context import Fields
from chassis.query import Order, condition, parse_order
from chassis.resource import Resource
from chassis.sql import written


@dataclass(frozen=True)
class Listing:
    """What makes the statement of a list: all but the tenant and where its page begins.

    ``resumed`` says for each column of the order whether the row before the page has no value there; None for the
    first page. ``owners`` says that the caller sees the records of so many alone, 2 meaning several.
    """

    resource: Resource[Any]
    filter: str
    order_by: str
    show_deleted: bool
    size: int
    resumed: tuple[bool, ...] | None
    owners: int | None


@lru_cache(maxsize=256)
def statement_of(listing: Listing, _fields: Fields) -> tuple[Executable, Order]:
    """The statement of a page and one row more, and its order: a row has its ``record`` and what the order is made of.

    Its parameters are the ``tenant``, and those of `named`. It is another one where the caller may use other fields.
    """
    table, descriptor = listing.resource.table, listing.resource.message.DESCRIPTOR
    order = parse_order(listing.order_by, descriptor, table)
    statement = select(table.c.record, *(place.column for place in order.columns)).where(
        table.c.tenant_id == bindparam("tenant"), condition(listing.filter, descriptor, table)
    )
    if listing.owners == 1:
        # Of one owner an index has the records in the order of the list; of several it has not.
        statement = statement.where(table.c.owner_id == bindparam("owner"))
    elif listing.owners is not None:
        statement = statement.where(table.c.owner_id == func.any(bindparam("visible")))
    if not listing.show_deleted:
        statement = statement.where(table.c.delete_time.is_(None))
    if listing.resumed is not None:
        values = [
            None if empty else bindparam(f"after_{number}", type_=place.column.type)
            for number, (empty, place) in enumerate(zip(listing.resumed, order.columns, strict=True))
        ]
        statement = statement.where(order.after(values))
    return statement.order_by(*order.clauses()).limit(written(listing.size + 1)), order


def named(after: Sequence[Any] | None, owners: list[UUID] | None) -> dict[str, Any]:
    """The parameters for the place where a page begins, and for the owners whose records are listed."""
    given: dict[str, Any] = {f"after_{number}": value for number, value in enumerate(after or ())}
    if owners is not None:
        given |= {"owner": owners[0]} if len(owners) == 1 else {"visible": owners}
    return given


def joined(field: int, bodies: Iterable[bytes]) -> bytes:
    """Messages as the elements of the repeated field with this number: on the wire they are bytes like any others."""
    return bytes(_elements(field)(elements=bodies).SerializeToString())


@cache
def _elements(field: int) -> Any:
    """A message with ``repeated bytes elements`` under this number, and nothing else."""
    file = FileDescriptorProto(name="elements.proto", syntax="proto3")
    file.message_type.add(name="Elements").field.add(
        name="elements", number=field,
        type=FieldDescriptorProto.TYPE_BYTES, label=FieldDescriptorProto.LABEL_REPEATED,
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Elements"))
