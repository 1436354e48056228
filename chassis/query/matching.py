"""Filters asked about a record that is at hand: the same answer as SQL gives of the record's row.

So with SQL's third truth: what has no value is neither equal nor unequal, nor is the opposite of that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis.contract import is_repeated
from chassis.errors import Invalid, Reason
from chassis.query.filter import Every, Not, Some, Tree, read
from chassis.query.operands import COMPARISONS, Kind, Term, field_of, resolve
from chassis.rows import kept

# The one name in a filter of changes that is no field of the record.
CHANGED: Final = "changed"


@dataclass(frozen=True)
class _Changed:
    """This field changed; any, where it names none."""

    name: str


class Filter:
    """A filter of a resource's changes by what the record is after them.

    ``allowed`` are the fields that may be named. ``changed:amount`` holds of a change of that field, and ``changed:*``
    of a change of any. Raises Invalid as a list's filter does.
    """

    def __init__(self, text: str, resource: Descriptor, allowed: frozenset[str]) -> None:
        # The etag has no column, so there is no filtering by it either.
        columns = frozenset(each.name for each in resource.fields) - {"etag"}
        self._allowed = allowed
        named = partial(resolve, resource, columns, allowed)
        self._tree: Tree[Term | _Changed] = read(text, partial(_resolve, resource, allowed, named))

    def takes(self, record: Message, changed: Iterable[str]) -> bool:
        """Whether it holds of a record whose fields in ``changed`` have just become what they are."""
        return _truth(self._tree, record, self._allowed.intersection(changed)) is True


def _resolve(
    resource: Descriptor, allowed: frozenset[str], named: Callable[..., Term], path: str, position: int,
    comparison: str, value: str, any_value: bool,
) -> Term | _Changed:  # fmt: skip
    if path != CHANGED:
        return named(path, position, comparison, value, any_value)
    if comparison not in ("=", ":") or (any_value and comparison != ":"):
        message = "'changed': only ':' and '=' apply, as in 'changed:amount'"
        raise Invalid(Reason.REASON_FILTER_INVALID, f"filter: {message}", violations=[("filter", message)])
    if any_value:
        return _Changed("")
    reason = Reason.REASON_FILTER_UNKNOWN_FIELD
    return _Changed(field_of(resource, value, allowed, reason=reason, what="filter", position=position).name)


def _truth(tree: Tree[Term | _Changed], record: Message, changed: frozenset[str]) -> bool | None:
    match tree:
        case Every(parts):
            found = [_truth(each, record, changed) for each in parts]
            return False if False in found else None if None in found else True
        case Some(parts):
            found = [_truth(each, record, changed) for each in parts]
            return True if True in found else None if None in found else False
        case Not(part):
            inner = _truth(part, record, changed)
            return None if inner is None else not inner
        case _Changed(name):
            return name in changed if name else bool(changed)
    return _holds(tree, *kept(tree.field).values(record))


def _holds(term: Term, value: Any, currency: str | None = None) -> bool | None:
    """`operands.in_sql` on the values of the field's columns."""
    compare, wanted = COMPARISONS[term.comparison], term.value
    match term.kind:
        case Kind.IS_SET:
            return bool(value) if is_repeated(term.field) else value is not None
        case Kind.HAS:
            return wanted in value
        case Kind.HAS_PART:
            return any(each.get(term.part) == wanted for each in value)
        case Kind.CONTAINS:
            return None if value is None else _lower(wanted) in _lower(value)
        case Kind.PLAIN if term.comparison == "!=":
            return bool(value != wanted)
        case Kind.CURRENCY:
            value = currency
        case Kind.PART:
            value = _text(value, term.part)
        case Kind.PART_CONTAINS:
            text = _text(value, term.part)
            return None if text is None else _lower(wanted) in _lower(text)
    return None if value is None else bool(compare(value, wanted))


def _text(value: Any, part: str) -> str | None:
    """A field of a JSON object as the database's ``->>`` gives it."""
    found = value.get(part) if isinstance(value, dict) else None
    return found if found is None or isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _lower(text: str) -> str:
    """Lower case one character at a time, as the database has it: none becomes two, and none minds its neighbours."""
    return "".join(each.lower()[0] for each in text)
