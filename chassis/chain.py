"""What a seal is made of: the exact bytes of a row, and the hashes that make a chain of them.

`docs/audit.md` says the same in words, so that somebody else can compute it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Table, case, false, func, or_

# Before the first seal.
GENESIS: Final = bytes(32)
_FORM: Final = "rapport-seal-1"
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_NULL: Final = b"\x00"
_ENTRY: Final = struct.Struct(">q32s")
# How long an entry of a seal is.
ENTRY_BYTES: Final = _ENTRY.size


@dataclass(frozen=True, eq=False)
class Log:
    """A table that only grows, whose rows are sealed.

    ``table`` has ``tenant_id`` and ``position``: numbers in the order of the rows, without gaps, which are never
    changed once they are there. They count over all tenants, up to ``relay.last_position``, or for each tenant by
    itself where ``per_tenant``; then no row may appear below one that others can see already, and the primary key or
    an index begins with (tenant_id, position). ``columns`` are what is sealed beside the position, in this order;
    leave out what is filled later. ``bodies`` names columns of bytes that enter by their SHA-256, with the column
    that keeps it when the bytes are erased: such a row has no bytes and its digest. ``time`` is when a row was made.
    ``kept_days`` names the setting that says for how many days rows are kept, where the oldest of a tenant are taken
    away after so long; their seals stay.

    A service seals one more table by ``schema.seal(Log("reads", table, columns=("tenant_id", …), per_tenant=True))``
    in its tables module; no migration and nothing else is needed.
    """

    name: str
    table: Table
    columns: tuple[str, ...]
    bodies: Mapping[str, str] = field(default_factory=dict)
    per_tenant: bool = False
    time: str = "commit_time"
    kept_days: str = ""

    def selected(self) -> list[ColumnElement[Any]]:
        """A row as `entry_of` takes it: tenant, position, whether a body was erased, and what is sealed."""
        columns = self.table.c
        redacted = or_(false(), *(columns[kept].is_not(None) for kept in self.bodies.values()))
        return [
            columns.tenant_id.label("of_tenant"),
            columns.position.label("at_position"),
            redacted.label("redacted"),
            *(self._value(name).label(f"v{index}") for index, name in enumerate(self.columns)),
        ]

    def _value(self, name: str) -> ColumnElement[Any]:
        column = self.table.c[name]
        if (kept := self.bodies.get(name)) is None:
            return column
        digest = self.table.c[kept]
        # A kept digest counts only where the bytes are gone: nobody hides other bytes behind it.
        return case((digest.is_not(None) & (func.length(column) == 0), digest), else_=func.sha256(column))


def content(values: Iterable[Any]) -> bytes:
    """The bytes of a row: each value as its length and bytes; NULL as one zero byte."""
    return b"".join([_encoded(value) for value in values])


def entry_of(row: Any) -> bytes:
    """The entry of a row, selected as its log says, in its seal: the position and the SHA-256 of its content."""
    _, position, _, *values = row
    return _ENTRY.pack(position, hashlib.sha256(content(values)).digest())


def entries(packed: bytes) -> list[tuple[int, bytes]]:
    """The positions and digests that a seal lists."""
    return list(_ENTRY.iter_unpack(packed))


def _encoded(value: Any) -> bytes:
    if value is None:
        return _NULL
    if isinstance(value, str):
        raw = value.encode()
    elif isinstance(value, UUID):
        raw = value.bytes
    elif isinstance(value, bool):
        raw = b"\x01" if value else b"\x00"
    elif isinstance(value, int):
        raw = value.to_bytes(8, "big", signed=True)
    elif isinstance(value, dt.datetime):
        raw = ((value - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)
    elif isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
    elif isinstance(value, Sequence):
        raw = content(value)
    else:
        raise TypeError(f"a sealed row cannot hold a {type(value).__name__}")
    return b"\x01" + len(raw).to_bytes(4, "big") + raw


def seal_hash(service: str, log: str, seal: Any, previous: bytes) -> bytes:
    """The hash of a seal, which follows one with the hash ``previous``.

    ``seal`` has the columns of the table ``seals`` but the hash.
    """
    values = (
        _FORM, service, log, seal["tenant_id"], seal["sequence"], seal["first_position"], seal["last_position"],
        seal["row_count"], seal["seal_time"], hashlib.sha256(seal["entries"]).digest(), previous,
    )  # fmt: skip
    return hashlib.sha256(content(values)).digest()
