"""Forgets the words that no record has any longer: a name that was erased is not to stay among the spellings.

A word goes when it was without a record twice in a row. Whoever writes a record asks for its words' spellings anew more
often than that (index.py), so a process that believes a word to be kept hardly errs, and not for long.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, Text, bindparam, delete, exists, func, select, tuple_

from chassis import contract
from chassis.search.index import BEGINNING, KNOWN_S
from chassis.search.words import spellings
from chassis.service import Platform
from chassis.sql import Connection, Row

_EVERY_S: Final = 2 * KNOWN_S
_PAGE: Final = 5_000
# Between two pages, so that others do not notice.
_REST_S: Final = 0.05

Words = frozenset[tuple[UUID, str]]


async def sweep_spellings(platform: Platform) -> None:
    """Deletes what has been unused for some hours. Never ends."""
    unused: Words = frozenset()
    while True:
        await asyncio.sleep(_EVERY_S)
        unused = await sweep_once(platform, unused)


async def sweep_once(platform: Platform, before: Words) -> Words:
    """The words that no record has, with their tenants; the spellings of those that had none ``before`` are deleted."""
    schema = platform.db.schema
    kinds = [each.prefix for each in contract.load().resources.values() if each.home == schema.name]
    table, unused = schema.search_spellings, set[tuple[UUID, str]]()
    place = table.c.tenant_id, table.c.spelling, table.c.word, table.c.id
    after: tuple[Any, ...] | None = None
    while True:
        page = select(*place).order_by(*place).limit(_PAGE)
        if after is not None:
            page = page.where(tuple_(*place) > tuple_(*after))
        async with platform.db.worker() as connection:
            rows = await connection.rows(page)
            for tenant, words in _by_tenant(rows).items():
                left = words - await _used(connection, schema, kinds, tenant, words)
                unused |= {(tenant, each) for each in left}
                if gone := sorted(each for each in left if (tenant, each) in before):
                    await _forget(connection, schema, kinds, tenant, gone)
        if len(rows) < _PAGE:
            return frozenset(unused)
        after = tuple(rows[-1][column.name] for column in place)
        await asyncio.sleep(_REST_S)


def _by_tenant(rows: list[Row]) -> dict[UUID, set[str]]:
    found: dict[UUID, set[str]] = defaultdict(set)
    for row in rows:
        # Its beginning is always one of a word's spellings, so each is looked at once.
        if row.spelling == row.word[:BEGINNING]:
            found[row.tenant_id].add(row.word)
    return found


async def _used(connection: Connection, schema: Any, kinds: list[str], tenant: UUID, words: set[str]) -> set[str]:
    terms = schema.search_terms
    asked = select(terms.c.term).distinct().where(
        terms.c.tenant_id == bindparam("tenant"),
        terms.c.resource == _any_of("kinds"),
        terms.c.term == _any_of("words"),
    )  # fmt: skip
    rows = await connection.rows(asked, {"tenant": tenant, "kinds": kinds, "words": sorted(words)})
    return {row.term for row in rows}


async def _forget(connection: Connection, schema: Any, kinds: list[str], tenant: UUID, words: list[str]) -> None:
    table, terms = schema.search_spellings, schema.search_terms
    # Once more in the statement itself: a record with the word may have come since.
    used = exists().where(
        terms.c.tenant_id == table.c.tenant_id, terms.c.resource == _any_of("kinds"), terms.c.term == table.c.word
    )
    gone = delete(table).where(
        table.c.tenant_id == bindparam("tenant"),
        table.c.spelling == _any_of("spellings"),
        table.c.word == _any_of("words"),
        ~used,
    )
    every = sorted({each for word in words for each in spellings(word)})
    await connection.execute(gone, {"tenant": tenant, "kinds": kinds, "spellings": every, "words": words})


def _any_of(name: str) -> Any:
    """One of the texts of a parameter."""
    return func.any(bindparam(name, type_=ARRAY(Text)))
