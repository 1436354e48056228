"""A kind of record: how it is kept, found by its keys, and locked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Table, bindparam, func, insert, select, update
from sqlalchemy.sql import Executable
from sqlalchemy.sql.elements import BindParameter

from chassis import context, contract, ids
from chassis.access import owned_prefix
from chassis.errors import Invalid, NotFound, Reason
from chassis.keys import Key, keys_of
from chassis.rows import Columns

M = TypeVar("M", bound=Message)

# Gets the unit of work (chassis/work.py, which stands on this room), the record as it will be, and as it was.
Prepare = Callable[[Any, M, M | None], Awaitable[None]]


class Resource(Generic[M]):
    """A kind of record: its message, its table, and what is special about it.

    ``normalize(record)`` brings its values into the form they are kept and compared in. ``prepare(work, after,
    before)`` completes a record before it is written and raises Invalid or Precondition where it cannot be as it is;
    ``before`` is None for a new one. ``keys(record)`` are the natural keys besides external ids, of a normalized
    record. ``transient`` names the fields that are never kept. ``optimistic`` says that a call may change a record
    without a lock and be done again where another writer was faster: nothing but the record itself is decided under
    the lock of one.
    """

    def __init__(
        self,
        message: type[M],
        table: Table,
        *,
        normalize: Callable[[M], None] | None = None,
        prepare: Prepare[M] | None = None,
        keys: Callable[[M], Iterable[Key]] | None = None,
        transient: Iterable[str] = (),
        optimistic: bool = False,
    ) -> None:
        self.message = message
        self.table = table
        self.kind = contract.load().by_message[message.DESCRIPTOR.full_name]
        self.transient = frozenset(transient)
        self.columns: Columns[M] = Columns(message, self.transient)
        self.normalize = normalize or _as_it_is
        self.prepare = prepare
        self._keys = keys
        self.name = message.DESCRIPTOR.name
        by_id = (table.c.tenant_id == bindparam("tenant"), table.c.id == bindparam("id"))
        kept = (table.c.id, table.c.revision, table.c.record)
        clock = func.clock_timestamp().label("clock")
        self.lock_one: Executable = select(*kept, clock).where(*by_id).with_for_update()
        many = (table.c.tenant_id == bindparam("tenant"), table.c.id == func.any(bindparam("ids")))
        self.read_many: Executable = select(*kept).where(*many)
        self.optimistic = optimistic
        self.look_many: Executable = select(*kept, clock).where(*many)
        self.share_one: Executable = select(*kept).where(*by_id).with_for_update(read=True)
        # In the order of ids, so that two batches that meet wait for each other instead of locking up.
        self.lock_many: Executable = select(*kept, clock).where(*many).order_by(table.c.id).with_for_update()
        # The same for a caller that sees the records of some owners, ``visible``, alone.
        self.owned = bool(owned_prefix(message.DESCRIPTOR)) and "owner_id" in table.c
        if self.owned:
            seen = table.c.owner_id == func.any(bindparam("visible"))
            self.lock_visible: Executable = select(*kept, clock).where(*by_id, seen).with_for_update()
            self.read_many_visible: Executable = select(*kept).where(*many, seen)
            self.look_many_visible: Executable = select(*kept, clock).where(*many, seen)
            self.lock_many_visible: Executable = (
                select(*kept, clock).where(*many, seen).order_by(table.c.id).with_for_update()
            )
        written: dict[str, BindParameter[Any]] = {
            column.name: bindparam(f"v_{column.name}") for column in table.c if column.name not in _FIXED
        }
        self.insert = insert(table).values(tenant_id=bindparam("tenant"), id=bindparam("v_id"), **written)
        self.update = (
            update(table)
            .where(
                table.c.tenant_id == bindparam("tenant"),
                table.c.id == bindparam("v_id"),
                table.c.revision == bindparam("seen"),
            )
            .values(**written)
        )

    def uuid(self, text: str) -> UUID:
        """The UUID of one of its ids. Raises Invalid, ID_INVALID, for another kind's."""
        try:
            prefix, uuid = ids.decode(text)
        except ValueError as error:
            raise Invalid(Reason.REASON_ID_INVALID, f"'id': {error}") from error
        if prefix != self.kind.prefix:
            raise Invalid(Reason.REASON_ID_INVALID, f"'id': it is the id of a {prefix}, not of a {self.kind.prefix}")
        return uuid

    def id_of(self, uuid: UUID) -> str:
        """The id that a UUID has as one of its records."""
        return ids.encode(self.kind.prefix, uuid)

    def owners(self) -> list[UUID] | None:
        """The owners whose records the current caller may see; None where it may see every record."""
        return context.owners(contract.descriptor_of(self.message)) if self.owned else None

    def read(self, row: Any) -> M:
        """The record that a row keeps."""
        return self.message.FromString(row.record)

    def row(self, record: M, revision: int) -> dict[str, Any]:
        """What a record's row holds, but for the tenant."""
        return self.columns.of(record) | {"revision": revision, "record": record.SerializeToString()}

    def keys(self, record: M) -> list[Key]:
        """The natural keys of a record: its external ids, and what ``keys`` adds."""
        return keys_of(record, self._keys)

    def missing(self, text: str) -> NotFound:
        """The failure for a record that is not there."""
        return NotFound(Reason.REASON_NOT_FOUND, f"there is no {self.kind.prefix} '{text}'", metadata={"id": text})


_FIXED: Final = ("tenant_id", "id")


def _as_it_is(_record: Message) -> None:
    return None


@dataclass
class Record(Generic[M]):
    """A locked record: as it was, and the copy that is changed."""

    resource: Resource[M]
    before: M
    after: M
    revision: int
