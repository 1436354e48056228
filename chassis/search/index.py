"""The terms of records as rows, written by the same statement as the records."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Executable, Table, Text, Uuid, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import ids
from chassis.search.texts import says_the_same, terms
from chassis.search.words import is_spelled, spellings

if TYPE_CHECKING:
    from chassis.db import Tx

# One mapping of arrays, a column each, for all the rows of one kind.
Arrays = dict[str, list[Any]]
_MOST_KNOWN: Final = 100_000
# So long a process believes that a word's spellings are kept: those of unused words are taken away (sweep.py).
KNOWN_S: Final = 3 * 3_600.0
# So much of a word's beginning is always one of its spellings.
BEGINNING: Final = 7
# A record as it was, None for a new one, and as it is.
End = tuple[Message | None, Message]


class _Known(set[tuple[UUID, str]]):
    """The words whose spellings this process knows to be kept, by tenant."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()

    def refresh(self) -> None:
        """Forgets them all when they are too many, or were learned too long ago."""
        if len(self) > _MOST_KNOWN or time.monotonic() - self._since > KNOWN_S:
            self.clear()
            self._since = time.monotonic()


_known: Final = _Known()


def term_rows(ends: Iterable[End]) -> dict[str, Arrays]:
    """The terms that go, those of new records, and those that come or come to another owner, by the kind of the part
    that writes them. Those of new records cannot be there already, and need not be looked for.
    """
    gone: list[tuple[Any, ...]] = []
    first: list[tuple[Any, ...]] = []
    new: list[tuple[Any, ...]] = []
    for before, after in ends:
        owner = owner_of(after)
        moved = before is not None and owner != owner_of(before)
        if before is not None and not moved and says_the_same(before, after):
            continue
        had = terms(before) if before is not None else frozenset()
        has = terms(after)
        prefix, uuid = ids.decode(after.id)  # type: ignore[attr-defined]
        gone += [(prefix, each, uuid) for each in had - has]
        come = first if before is None else new
        come += [(prefix, each, uuid, owner) for each in (has if moved else has - had)]
    columns = ("resource", "term", "id", "owner_id")
    return {
        "gone_terms": arrays(columns[:3], gone),
        "first_terms": arrays(columns, first),
        "terms": arrays(columns, new),
    }


def owner_of(record: Any) -> UUID | None:
    """Who looks after a record; None for nobody."""
    text = getattr(record, "owner_id", "")
    return ids.decode(text)[1] if text else None


async def spelling_rows(tx: Tx, *come: Arrays) -> Arrays:
    """The spellings of the words among these terms that the tenant has not had yet.

    A word is looked up once by each process. Two that meet it at once both write it, and do not wait for each other.
    """
    tenant = tx.tenant
    _known.refresh()
    wanted = {
        word: uuid
        for new in come
        for word, uuid in zip(new.get("term", ()), new.get("id", ()), strict=True)
        if (tenant, word) not in _known and is_spelled(word)
    }
    if not wanted:
        return {}
    asked = {"words": sorted(wanted), "beginnings": sorted({word[:BEGINNING] for word in wanted})}
    rows = await tx.rows_alone(_kept(tx.schema.search_spellings), asked)
    for row in rows:
        # Only what is committed is known: this transaction may yet be undone.
        _known.add((tenant, row["word"]))
        wanted.pop(row["word"], None)
    return arrays(
        ("spelling", "word", "id"), [(each, word, uuid) for word, uuid in wanted.items() for each in spellings(word)]
    )


def arrays(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Arrays:
    """Rows as one array a column; nothing for no row."""
    return {name: [row[at] for row in rows] for at, name in enumerate(columns)} if rows else {}


def unnested(columns: Iterable[str], table: Table, named: Any) -> Any:
    """A query of the rows that arrays hold; ``named(column)`` is the name of the array's parameter."""
    kinds = {name: Uuid() if isinstance(table.c[name].type, Uuid) else Text() for name in columns}
    arrays = [func.unnest(bindparam(named(name), type_=ARRAY(kind))).label(name) for name, kind in kinds.items()]
    return select(*arrays).subquery()


@cache
def _kept(table: Table) -> Executable:
    """Which of some words have spellings. A word's beginning is always one of them."""
    return (
        select(table.c.word)
        .distinct()
        .where(
            table.c.tenant_id == bindparam("tenant"),
            table.c.spelling == func.any(bindparam("beginnings", type_=ARRAY(Text))),
            table.c.word == func.any(bindparam("words", type_=ARRAY(Text))),
        )
    )
