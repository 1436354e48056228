"""The records that a text finds: candidates from the index of terms, the best of them by what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from crm.type.v1 import options_pb2
from sqlalchemy import (
    ColumnElement,
    Executable,
    Table,
    Text,
    Uuid,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import context, contract
from chassis.context import Caller
from chassis.resource import Resource
from chassis.search.query import Fit, Meant, Query
from chassis.search.texts import is_searched, opened, title_of
from chassis.search.words import errors_in, is_spelled, nearest, spellings
from chassis.sql import written
from chassis.work import View

# So many records of a kind, the newest that fit, are compared by what they say and when they changed.
_CANDIDATES: Final = 300
# Of words that merely begin so, or were mistyped: the rarest is looked for, each counted so far; the newest _COMPARED
# records that have it are asked for the others, until _FITTING have them all. All that begins with the rarest is read,
# which costs more than counting; of the very terms of mistyped words no more is read than is wanted.
_BEGUN_COUNTED: Final = 50_000
_MEANT_COUNTED: Final = 10_000
_COMPARED: Final = 2_000
_FITTING: Final = 100
# With fewer results than so many, words are also taken for mistyped ones.
_FEW: Final = 5
# So many words that one may have been meant as are looked for, the nearest of so many that share a spelling.
_MEANT: Final = 8
_LOOKED_AT: Final = 300
# So many words of a query are taken for mistyped ones.
_MISTYPED: Final = 8
_LAST: Final = "\U0010ffff"


@dataclass(frozen=True)
class Found:
    """A record that a query found."""

    resource: Resource[Any]
    data: bytes
    # Shared with other searches and not to be changed.
    record: Any
    fit: Fit


def searchable(resources: Iterable[Resource[Any]], types: Sequence[str], caller: Caller) -> list[Resource[Any]]:
    """Those of the kinds that are searched, wanted (all where no types are named) and open to the caller."""
    return [
        each
        for each in resources
        if is_searched(each.kind.descriptor)
        and (not types or each.kind.prefix in types)
        and caller.may(contract.load().read_permission(each.kind))
    ]


async def find(tx: View, resources: Sequence[Resource[Any]], text: str, size: int) -> list[Found]:
    """The records that fit ``text`` best, at most ``size``; of equal ones those that changed last."""
    query = Query.of(text)
    found = await _search(tx, resources, query, {}, size)
    if len(found) < min(size, _FEW) and not any(map(_is_exact, found)):
        meant = await _meant(tx, query)
        if any(meant.values()):
            known = {each.record.id for each in found}
            more = await _search(tx, resources, query, meant, size)
            found += [each for each in more if each.record.id not in known]
    return sorted(found, key=_place, reverse=True)[:size]


def _is_exact(found: Found) -> bool:
    """Whether the query is an address, a number or an id of the record: then no other was meant."""
    return found.fit.score == 1 and found.fit.text.how != options_pb2.SEARCHED_WORDS


def _place(found: Found) -> tuple[float, int]:
    return found.fit.score, found.record.update_time.ToNanoseconds()


async def _search(tx: View, resources: Sequence[Resource[Any]], query: Query, meant: Meant, size: int) -> list[Found]:
    readings = [query.asked_words()] if meant else query.readings()
    if not readings:
        return []
    shape = tuple(map(len, readings))
    values: dict[str, Any] = {"whole": query.text}
    for number, reading in enumerate(readings):
        for place, start in enumerate(reading):
            values |= {f"from_{number}_{place}": start, f"to_{number}_{place}": start + _LAST}
            values[f"meant_{number}_{place}"] = [start, *meant.get(start, ())]

    async def ask(resource: Resource[Any]) -> list[Any]:
        owners = resource.owners()
        statement = _statement(resource, shape, bool(meant), owners is not None, size)
        return await tx.rows_alone(statement, values if owners is None else {**values, "visible": owners})

    answers = await asyncio.gather(*map(ask, resources))
    return [
        Found(resource, row.record, known.record, fit)
        for resource, rows in zip(resources, answers, strict=True)
        for readable in (context.fields(resource.kind.descriptor).readable,)
        for row in rows
        for known in (opened(resource, row.record),)
        if (fit := query.fit([text for text in known.texts if text.name in readable], meant)) is not None
    ]


@lru_cache(maxsize=256)
def _statement(resource: Resource[Any], shape: tuple[int, ...], fuzzy: bool, owned: bool, size: int) -> Executable:
    """The statement that finds records of a kind by readings of so many words each.

    Its parameters are ``whole``; for each word of each reading the range of terms it begins, or the terms it is meant
    as; and ``visible``, the owners whose records are found, where it is ``owned``. The order is that of `Query.fit` as
    far as the index knows it: a record that is called just so, one that has the very word, then the last changed.
    """
    table, prefix = resource.table, resource.kind.prefix
    terms = _Terms(resource.table.metadata.tables["search_terms"], prefix, owned)
    parts: list[Any] = []
    for number, count in enumerate(shape):
        if count > 1:
            names = [f"{number}_{place}" for place in range(count)]
            rarest = terms.rarest(names, fuzzy=fuzzy)
            if not fuzzy:
                # Beginnings of two common words are many; they are gone through where the very words are too few.
                very = terms.very(names)
                enough = very.limit(written(size)).subquery()
                few = select(func.count()).select_from(enough).scalar_subquery() < written(size)
                parts.append(_part(very))
                rarest = rarest.where(few)
            parts.append(_part(terms.all_of(names, rarest.subquery(), fuzzy=fuzzy), most=_FITTING))
        elif fuzzy:
            parts.append(_part(terms.of("1", terms.meant(f"{number}_0"))))
        else:
            kept, word = terms.table.c, bindparam(f"from_{number}_0", type_=Text())
            parts.append(_part(terms.of("0", kept.term == word), kept.id.desc()))
            parts.append(_part(terms.of("1", kept.term > word, *terms.beginning(f"{number}_0")), kept.term, kept.id))
    every = union_all(*parts).subquery() if len(parts) > 1 else parts[0].subquery()
    found = select(every.c.id, func.min(every.c.tier).label("tier")).group_by(every.c.id).subquery()
    title = table.c[title_of(resource.kind.descriptor)] if title_of(resource.kind.descriptor) else literal("")
    return (
        select(table.c.record)
        .join_from(found, table, table.c.id == found.c.id)
        .where(table.c.tenant_id == bindparam("tenant"), table.c.delete_time.is_(None))
        .order_by(
            (func.lower(title) == bindparam("whole", type_=Text())).desc(),
            found.c.tier,
            table.c.update_time.desc(),
            table.c.id.desc(),
        )
        .limit(written(size))
    )


@dataclass(frozen=True)
class _Terms:
    """The terms of one kind of records that the caller may see."""

    table: Table
    prefix: str
    owned: bool

    def of(self, tier: str, *conditions: ColumnElement[bool]) -> Any:
        """The ids of records by their terms, in a tier."""
        return select(self.table.c.id, literal_column(tier).label("tier")).where(*self._own(self.table), *conditions)

    def _own(self, table: Any) -> list[ColumnElement[bool]]:
        """Those of the table's rows, under whichever name it has, that are of this kind and to be seen."""
        own = [table.c.tenant_id == bindparam("tenant"), table.c.resource == literal_column(f"'{self.prefix}'")]
        if self.owned:
            own.append(table.c.owner_id == func.any(bindparam("visible", type_=ARRAY(Uuid))))
        return own

    def beginning(self, name: str) -> list[ColumnElement[bool]]:
        """The terms that begin with a word."""
        return _between(self.table, *_range(name, fuzzy=False))

    def meant(self, name: str) -> ColumnElement[bool]:
        """The terms that a word may have been meant as."""
        return self.table.c.term == func.any(_meant_as(name))

    def very(self, names: Sequence[str]) -> Any:
        """The ids of the records that have these very words, the newest first: the index has each word's in order."""
        first, *others = [self.table.alias() for _ in names]
        found: Any = first
        for kept in others:
            found = found.join(kept, kept.c.id == first.c.id)
        words = [bindparam(f"from_{name}", type_=Text()) for name in names]
        conditions = [kept.c.term == word for kept, word in zip((first, *others), words, strict=True)]
        return (
            select(first.c.id, literal_column("0").label("tier"))
            .select_from(found)
            .where(*(each for kept in (first, *others) for each in self._own(kept)), *conditions)
            .order_by(first.c.id.desc())
        )

    def rarest(self, names: Sequence[str], *, fuzzy: bool) -> Any:
        """Which of some words the fewest terms are of, as far as they are counted."""
        counted = []
        for place, name in enumerate(names):
            terms, most = ([self.meant(name)], _MEANT_COUNTED) if fuzzy else (self.beginning(name), _BEGUN_COUNTED)
            many = self.of("0", *terms).limit(written(most))
            count = select(func.count()).select_from(many.subquery()).scalar_subquery().label("count")
            counted.append(select(written(place).label("place"), *_range(name, fuzzy=fuzzy), count))
        every = union_all(*counted).subquery()
        return (
            select(*(column for column in every.c if column.name != "count")).order_by(every.c.count).limit(written(1))
        )

    def all_of(self, names: Sequence[str], rarest: Any, *, fuzzy: bool) -> Any:
        """The ids of the newest records that have a term of the rarest word, as far as they have one of each."""
        newest = (self._newest_meant(rarest) if fuzzy else self._newest_begun(rarest)).lateral()
        others = (
            or_(rarest.c.place == written(place), self._has(newest.c.id, name, fuzzy=fuzzy))
            for place, name in enumerate(names)
        )
        return (
            select(newest.c.id, literal_column("1").label("tier"))
            .select_from(rarest.join(newest, true()))
            .where(*others)
            .order_by(newest.c.id.desc())
        )

    def _newest_begun(self, rarest: Any) -> Any:
        return self._newest(*_between(self.table, rarest.c.start, rarest.c.stop))

    def _newest_meant(self, rarest: Any) -> Any:
        """Of each very term the index has the records in order, so no more of them are read than are wanted."""
        words = func.unnest(rarest.c.meant).table_valued("term").render_derived(name="words")
        each = self._newest(self.table.c.term == words.c.term).lateral()
        return (
            select(each.c.id).select_from(words.join(each, true())).order_by(each.c.id.desc()).limit(written(_COMPARED))
        )

    def _newest(self, *conditions: ColumnElement[bool]) -> Any:
        ordered = select(self.table.c.id).where(*self._own(self.table), *conditions).order_by(self.table.c.id.desc())
        return ordered.limit(written(_COMPARED))

    def _has(self, record: Any, name: str, *, fuzzy: bool) -> Any:
        """Whether a record has a term of a word: one look-up, where EXISTS might read all the terms of the word."""
        kept = self.table.alias()
        asked = [kept.c.term == func.any(_meant_as(name))] if fuzzy else _between(kept, *_range(name, fuzzy=False))
        return (
            select(true())
            .where(kept.c.tenant_id == bindparam("tenant"), kept.c.id == record, *asked)
            .limit(written(1))
            .scalar_subquery()
        )


def _range(name: str, *, fuzzy: bool) -> list[Any]:
    """What the terms of a word are told by, as columns."""
    if fuzzy:
        return [_meant_as(name).label("meant")]
    return [
        bindparam(f"{end}_{name}", type_=Text()).label(column) for end, column in (("from", "start"), ("to", "stop"))
    ]


def _meant_as(name: str) -> Any:
    return bindparam(f"meant_{name}", type_=ARRAY(Text))


def _between(table: Any, start: Any, stop: Any) -> list[ColumnElement[bool]]:
    return [table.c.term >= start, table.c.term < stop]


def _part(statement: Any, *order: Any, most: int = _CANDIDATES) -> Any:
    limited = (statement.order_by(*order) if order else statement).limit(written(most))
    inner = limited.subquery()
    return select(inner.c.id, inner.c.tier)


async def _meant(tx: View, query: Query) -> dict[str, Mapping[str, int]]:
    """What each word of a query may have been meant as beside itself."""
    wanted = [each for each in query.words if is_spelled(each) and errors_in(each)][:_MISTYPED]
    if not wanted:
        return {}
    asked = {f"spellings_{number}": spellings(word) for number, word in enumerate(wanted)}
    rows = await tx.rows_alone(_spelled(tx.schema.search_spellings, len(wanted)), asked)
    alike: dict[str, list[str]] = {word: [] for word in wanted}
    for row in rows:
        word = wanted[row.number]
        if row.word != word:
            alike[word].append(row.word)
    return {word: nearest(word, each, _MEANT) for word, each in alike.items()}


@cache
def _spelled(table: Table, count: int) -> Executable:
    """The words that share a spelling with each of so many, and with which of them."""
    parts = []
    for number in range(count):
        shared = table.c.spelling == func.any(bindparam(f"spellings_{number}", type_=ARRAY(Text)))
        alike = (
            select(table.c.word)
            .distinct()
            .where(table.c.tenant_id == bindparam("tenant"), shared)
            .limit(written(_LOOKED_AT))
            .subquery()
        )
        parts.append(select(written(number).label("number"), alike.c.word))
    return select(union_all(*parts).subquery())
