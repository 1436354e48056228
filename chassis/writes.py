"""One statement for all that a small unit of work writes: rows, natural keys and ledger in one round trip.

Every part is a modifying CTE of plain VALUES, so the statement also passes where tables are spread over machines.
"""

from __future__ import annotations

from functools import cache, lru_cache, reduce
from operator import mul
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ColumnElement,
    Integer,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import Executable

from chassis.search.index import unnested

if TYPE_CHECKING:
    from chassis.db import Schema
    from chassis.resource import Resource

# Shapes differ by resources and counts; beyond so many rows a batch of statements serves as well.
MAX_CHANGES: Final = 4
MAX_KEYS: Final = 8
_KEY: Final = ("resource", "kind", "value", "id")

# Parts whose rows come as arrays, one a column: their statement is the same for any number of rows.
ARRAYS: Final = frozenset({"first_terms", "terms", "gone_terms", "spellings"})

# What a part does: insert or update a resource's row or see that it is the same, insert or delete so many natural keys,
# insert so many ledger rows, or keep the answer for a repeated call.
Part = tuple[str, "Resource[Any] | int"]


@lru_cache(maxsize=1024)
def together(schema: Schema, parts: tuple[Part, ...]) -> Executable:
    """The statement of these parts, in their order; the names of its parameters are given by `bound`.

    Where an update finds no row of its revision, or a record is not as it was read, it fails: then nothing of it is
    written, and `raced` knows the error.
    """
    ctes: list[Any] = []
    found: list[Any] = []
    for number, (kind, what) in enumerate(parts):
        if kind in ARRAYS:
            part = _of_arrays(schema, number, kind)
        elif isinstance(what, int):
            table = _table(schema, kind)
            columns = [each.name for each in table.c if each.name not in ("tenant_id", *_MADE)]
            part = _delete(number, what, table) if kind == "gone" else _insert(number, what, table, columns)
        elif kind == "insert":
            part = _insert(number, 1, what.table, [each.name for each in what.table.c if each.name != "tenant_id"])
        elif kind == "update":
            part = _update(number, what.table)
        else:
            part = _as_it_was(number, what.table)
        row: Any = literal_column("1").label("one")
        cte = (part.add_columns(row) if kind == "same" else part.returning(row)).cte(f"w{number}")
        if kind in ("update", "same"):
            found.append(select(func.count()).select_from(cte).scalar_subquery())
        ctes.append(cte)
    return select(_unless(found)).add_cte(*ctes)


# SQL has no statement to fail by. What is no number says in the database's log why it is there.
_RACED: Final = "another writer was first, so this is done again"


def _unless(found: list[Any]) -> Any:
    """1, or an error where something was not found once."""
    if not found:
        return literal_column("1")
    all_found = reduce(mul, found)
    # Of nothing but constants the planner would make the number itself.
    no_number = cast(literal_column(f"'{_RACED} '").op("||")(cast(all_found, Text)), Integer)
    return case((all_found == literal_column("1"), literal_column("1")), else_=no_number)


def raced(error: BaseException) -> bool:
    """Whether what `together` made failed because another writer had changed a record meanwhile."""
    return getattr(error, "sqlstate", "") == "22P02" and _RACED in str(error)


@cache
def one(schema: Schema, kind: str) -> Any:
    """The statement of one row of a part that is no resource's: for batches, one row after the other."""
    table = _table(schema, kind)
    if kind == "gone":
        return delete(table).where(
            table.c.tenant_id == bindparam("tenant"), *(table.c[name] == bindparam(name) for name in _KEY)
        )
    return insert(table).values(tenant_id=bindparam("tenant"))


def _table(schema: Schema, kind: str) -> Table:
    return {"ledger": schema.ledger, "answer": schema.idempotency}.get(kind, schema.natural_keys)


# Columns that the database or a later step fills.
_MADE: Final = ("position", "stream_seq", "before_digest", "after_digest")


def bound(number: int, row: int, column: str) -> str:
    """The name of the parameter for a column of a row of a part."""
    return f"w{number}_{row}_{column}"


@lru_cache(maxsize=1024)
def bounds(number: int, row: int, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the parameters for columns of a row of a part."""
    return tuple(bound(number, row, column) for column in columns)


def _values(number: int, row: int, columns: list[str]) -> dict[str, Any]:
    return {name: bindparam(bound(number, row, name)) for name in columns}


def _insert(number: int, rows: int, table: Table, columns: list[str]) -> Any:
    columns = [name for name in columns if not (table.name == "ledger" and name == "id")]
    return insert(table).values(
        [{"tenant_id": bindparam("tenant"), **_values(number, row, columns)} for row in range(rows)]
    )


def _of_arrays(schema: Schema, number: int, kind: str) -> Any:
    table = schema.search_spellings if kind == "spellings" else schema.search_terms
    keys = [each.name for each in table.primary_key if each.name != "tenant_id"]
    columns = keys if kind == "gone_terms" else [each.name for each in table.c if each.name != "tenant_id"]
    rows = unnested(columns, table, lambda column: bound(number, 0, column))
    if kind == "gone_terms":
        gone = tuple_(*(table.c[name] for name in keys)).in_(select(*(rows.c[name] for name in keys)))
        return delete(table).where(table.c.tenant_id == bindparam("tenant"), gone)
    made = postgresql.insert(table).from_select(
        ["tenant_id", *columns], select(bindparam("tenant", type_=Uuid()), *(rows.c[name] for name in columns))
    )
    if kind == "first_terms":
        return made
    if kind == "spellings":
        return made.on_conflict_do_nothing()
    return made.on_conflict_do_update(index_elements=["tenant_id", *keys], set_={"owner_id": made.excluded.owner_id})


def _update(number: int, table: Table) -> Any:
    columns = [each.name for each in table.c if each.name not in ("tenant_id", "id")]
    return update(table).where(*_seen(number, table)).values(_values(number, 0, columns))


def _as_it_was(number: int, table: Table) -> Any:
    """A record that is not written, and must not be by others before this is."""
    return select().select_from(table).where(*_seen(number, table)).with_for_update(read=True)


def _seen(number: int, table: Table) -> tuple[ColumnElement[bool], ...]:
    return (
        table.c.tenant_id == bindparam("tenant"),
        table.c.id == bindparam(bound(number, 0, "id")),
        table.c.revision == bindparam(bound(number, 0, "seen")),
    )


def _delete(number: int, rows: int, table: Table) -> Any:
    def one(row: int) -> ColumnElement[bool]:
        return and_(*(table.c[name] == bindparam(bound(number, row, name)) for name in _KEY))

    return delete(table).where(table.c.tenant_id == bindparam("tenant"), or_(*(one(row) for row in range(rows))))
