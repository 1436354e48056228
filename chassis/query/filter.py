"""Filters: a subset of AIP-160 (https://google.aip.dev/160), read, and turned into a condition on a resource's table.

Comparisons ``field op value`` with = != < <= > >= and : (has), joined by AND, OR, NOT and parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, NoReturn, TypeAlias, TypeVar

from google.protobuf.descriptor import Descriptor
from sqlalchemy import ColumnElement, FromClause, and_, not_, or_, true

from chassis import context
from chassis.errors import Invalid, Reason
from chassis.query.operands import COMPARISONS, Term, in_sql, resolve

MAX_DEPTH: Final = 20
MAX_TERMS: Final = 100

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<op><=|>=|!=|=|<|>|:)
      | (?P<paren>[()])
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<star>\*)
    )""",
    re.VERBOSE,
)


T = TypeVar("T")


@dataclass(frozen=True)
class Every(Generic[T]):
    """All of these hold."""

    parts: tuple[Tree[T], ...]


@dataclass(frozen=True)
class Some(Generic[T]):
    """One of these holds, or more."""

    parts: tuple[Tree[T], ...]


@dataclass(frozen=True)
class Not(Generic[T]):
    """This does not hold."""

    part: Tree[T]


# What a filter says: comparisons of the kind that whoever reads it makes of them, and how they are joined.
Tree: TypeAlias = "Every[T] | Some[T] | Not[T] | T"
# A comparison from its path, the place of that, the comparison's sign, its value, and whether that is a bare `*`.
Resolve = Callable[[str, int, str, str, bool], T]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def condition(text: str, resource: Descriptor, table: FromClause) -> ColumnElement[bool]:
    """The condition that ``text`` puts on the rows of ``table``; always true for an empty text.

    Raises Invalid: FILTER_INVALID where it cannot be read, FILTER_UNKNOWN_FIELD for a field that does not exist,
    each with the place, counted from 1.
    """
    if not text.strip():
        return true()
    allowed = context.fields(resource).filterable
    return _condition(read(text, partial(resolve, resource, table.c.keys(), allowed)), table)


def _condition(tree: Tree[Term], table: FromClause) -> ColumnElement[bool]:
    match tree:
        case Every(parts):
            return and_(*(_condition(each, table) for each in parts))
        case Some(parts):
            return or_(*(_condition(each, table) for each in parts))
        case Not(part):
            return not_(_condition(part, table))
    return in_sql(tree, table)


def read(text: str, resolve: Resolve[T]) -> Tree[T]:
    """What a filter says that is not empty. Raises Invalid, FILTER_INVALID, with the place, counted from 1."""
    return _Parser(_tokens(text), resolve).whole()


def _tokens(text: str) -> list[_Token]:
    found, position = [], 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            _refuse(f"'{text[start : start + 10]}' cannot be read", start)
        found.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        position = match.end()
    return found


def _refuse(message: str, position: int) -> NoReturn:
    raise Invalid(
        Reason.REASON_FILTER_INVALID,
        f"filter: {message}, at position {position + 1}",
        violations=[("filter", f"{message}, at position {position + 1}")],
    )


class _Parser(Generic[T]):
    """Reads by recursive descent: OR binds loosest, then AND, then NOT."""

    def __init__(self, tokens: list[_Token], resolve: Resolve[T]) -> None:
        self._tokens = tokens
        self._at = 0
        self._terms = 0
        self._resolve = resolve

    def whole(self) -> Tree[T]:
        result = self._any_of(0)
        if (token := self._peek()) is not None:
            _refuse(f"'{token.text}' was not expected; join comparisons with AND or OR", token.position)
        return result

    def _any_of(self, depth: int) -> Tree[T]:
        parts = [self._all_of(depth)]
        while self._take_word("OR"):
            parts.append(self._all_of(depth))
        return Some(tuple(parts)) if len(parts) > 1 else parts[0]

    def _all_of(self, depth: int) -> Tree[T]:
        parts = [self._one(depth)]
        while self._take_word("AND"):
            parts.append(self._one(depth))
        return Every(tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> Tree[T]:
        token = self._peek()
        if depth > MAX_DEPTH:
            _refuse(f"it is nested more than {MAX_DEPTH} deep", token.position if token else 0)
        if self._take_word("NOT"):
            return Not(self._one(depth + 1))
        if token is not None and token.text == "(" and token.kind == "paren":
            self._at += 1
            inner = self._any_of(depth + 1)
            closing = self._peek()
            if closing is None or closing.text != ")":
                _refuse("a ')' is missing for the '('", token.position)
            self._at += 1
            return inner
        return self._comparison()

    def _comparison(self) -> T:
        self._terms += 1
        field = self._next("a field's name")
        if self._terms > MAX_TERMS:
            _refuse(f"it has more than {MAX_TERMS} comparisons", field.position)
        if field.kind != "word":
            _refuse(f"'{field.text}' stands where a field's name belongs", field.position)
        operator = self._next(f"a comparison after '{field.text}'")
        if operator.text not in COMPARISONS or operator.kind != "op":
            _refuse(f"'{operator.text}' is no comparison; there are {' '.join(COMPARISONS)}", operator.position)
        value = self._next(f"a value after '{field.text} {operator.text}'")
        if value.kind in ("op", "paren"):
            _refuse(f"'{value.text}' stands where a value belongs", value.position)
        return self._resolve(field.text, field.position, operator.text, _value(value), value.kind == "star")

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self, expected: str) -> _Token:
        token = self._peek()
        if token is None:
            last = self._tokens[-1]
            _refuse(f"it ends where {expected} belongs", last.position + len(last.text))
        self._at += 1
        return token

    def _take_word(self, word: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "word" or token.text != word:
            return False
        self._at += 1
        return True


def _value(token: _Token) -> str:
    if token.kind == "string":
        return re.sub(r"\\(.)", r"\1", token.text[1:-1])
    return token.text
