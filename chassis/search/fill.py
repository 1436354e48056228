"""Makes the index of terms anew from the records: for databases that had none, and where one is in doubt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from google.protobuf.message import Message
from sqlalchemy import Connection, MetaData, Table, insert, inspect, text

from chassis import contract, ids
from chassis.contract import ResourceType
from chassis.search.index import owner_of
from chassis.search.texts import is_searched, terms
from chassis.search.words import is_spelled, spellings

_PART: Final = 2_000
# A tenant's and a record's key, a term and the owner; or a spelling, a word and the record it was first seen in.
Rows = list[dict[str, Any]]


def fill(connection: Connection, home: str) -> None:
    """Writes the terms and spellings of every record in a service's database, and drops those there were.

    As the owner of the tables. The walls between tenants are open to it until `migrate.secure` closes them again.
    """
    run = connection.exec_driver_sql
    # A migration runs with today's contract: the tables of some of its records may come later.
    there = inspect(connection).get_table_names()
    kinds = [
        each
        for each in contract.load().resources.values()
        if each.home == home and is_searched(each.descriptor) and each.plural in there
    ]
    tables = ["search_terms", "search_spellings"]
    for table in (*tables, *(each.plural for each in kinds)):
        run(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    run(f"TRUNCATE {', '.join(tables)}")
    made = MetaData()
    found, spelled = (Table(name, made, autoload_with=connection) for name in tables)
    for kind in kinds:
        rows = _terms(connection, kind)
        while part := list(islice(rows, _PART)):
            connection.execute(insert(found), part)
    words = _spellings(connection)
    while part := list(islice(words, _PART)):
        connection.execute(insert(spelled), part)
    # What was read to its end stays open for the database, and keeps later migrations from changing its table.
    run("CLOSE ALL")


def _terms(connection: Connection, kind: ResourceType) -> Iterator[dict[str, Any]]:
    every = text(f"SELECT tenant_id, record FROM {kind.plural}")  # noqa: S608
    with connection.execute(every.execution_options(yield_per=1_000)) as rows:
        for row in rows:
            yield from term_rows(row.tenant_id, kind.message.FromString(row.record))


def term_rows(tenant: Any, record: Message) -> Iterator[dict[str, Any]]:
    """The rows of a record's terms."""
    prefix, uuid = ids.decode(record.id)  # type: ignore[attr-defined]
    for term in sorted(terms(record)):
        yield {"tenant_id": tenant, "resource": prefix, "term": term, "id": uuid, "owner_id": owner_of(record)}


def _spellings(connection: Connection) -> Iterator[dict[str, Any]]:
    every = text("SELECT DISTINCT ON (tenant_id, term) tenant_id, term, id FROM search_terms ORDER BY tenant_id, term")
    with connection.execute(every.execution_options(yield_per=1_000)) as rows:
        for row in rows:
            yield from spelling_rows(row.tenant_id, row.term, row.id)


def spelling_rows(tenant: Any, word: str, uuid: Any) -> Iterator[dict[str, Any]]:
    """The rows of a word's spellings; none for what is no word."""
    for spelling in spellings(word) if is_spelled(word) else ():
        yield {"tenant_id": tenant, "spelling": spelling, "word": word, "id": uuid}
