"""The order of a list, and the condition that begins the page after a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from sqlalchemy import ColumnElement, Table, and_, false, or_, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis import context, contract
from chassis.errors import Invalid, Reason, invalid
from chassis.query.operands import field_of
from chassis.rows import Row

MAX_FIELDS: Final = 5
# Every record has them: the platform writes them, or a record's `prepare` sees to it.
_ALWAYS_SET: Final = frozenset({"id", "create_time", "update_time", "display_name"})


@dataclass(frozen=True)
class _Place:
    """A column of an order: whether it descends, and whether rows may have no value in it."""

    column: ColumnElement[Any]
    down: bool
    optional: bool


@dataclass(frozen=True)
class Order:
    """Columns in their order. The last one is the id, so no two rows are equal."""

    columns: tuple[_Place, ...]

    def clauses(self) -> list[ColumnElement[Any]]:
        """What ORDER BY takes. Rows without a value come last."""
        clauses: list[ColumnElement[Any]] = []
        for place in self.columns:
            clause = place.column.desc() if place.down else place.column
            # Said only where it matters: an index read backwards gives rows without a value first.
            clauses.append(clause.nulls_last() if place.optional else clause)
        return clauses

    def after(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """The rows that come after the one with these values, one parameter for each column; None for no value."""
        if not any(place.optional for place in self.columns) and len({place.down for place in self.columns}) == 1:
            return self._beyond_row(values)
        ways: list[ColumnElement[bool]] = []
        equal: list[ColumnElement[bool]] = []
        for place, value in zip(self.columns, values, strict=True):
            ways.append(and_(*equal, _beyond(place, value)))
            equal.append(place.column.is_(None) if value is None else place.column == value)
        # The first column's own condition follows from the rest. It stands there for an index to begin with.
        return and_(_not_before(self.columns[0], values[0]), or_(*ways))

    def _beyond_row(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """Compared as one row, which an index finds at once; of ors it would have to try every row."""
        row, place = tuple_(*(each.column for each in self.columns)), tuple_(*values)
        return row < place if self.columns[0].down else row > place

    def values(self, row: Row) -> list[Any]:
        """The row's place in this order."""
        return [row[place.column.key] for place in self.columns]  # type: ignore[index]


def _beyond(place: _Place, value: Any) -> ColumnElement[bool]:
    if value is None:
        return false()
    beyond = place.column < value if place.down else place.column > value
    return or_(beyond, place.column.is_(None)) if place.optional else beyond


def _not_before(place: _Place, value: Any) -> ColumnElement[bool]:
    if value is None:
        return place.column.is_(None)
    within = place.column <= value if place.down else place.column >= value
    return or_(within, place.column.is_(None)) if place.optional else within


def parse_order(text: str, resource: Descriptor, table: Table) -> Order:
    """The order that ``text`` asks for, such as ``amount desc, display_name``; newest first for an empty text.

    Raises Invalid, ORDER_INVALID, for a field that does not exist or cannot be ordered by.
    """
    places: list[_Place] = []
    position = 0
    for part in text.split(",") if text.strip() else ():
        words = part.split()
        if not 1 <= len(words) <= 2 or (len(words) == 2 and words[1].lower() not in ("asc", "desc")):
            raise _invalid(f"'{part.strip()}' is not a field, or a field and 'desc'")
        allowed = context.fields(resource).filterable
        field = field_of(
            resource, words[0], allowed, reason=Reason.REASON_ORDER_INVALID, what="order_by", position=position
        )
        if field.name not in table.c or isinstance(table.c[field.name].type, (ARRAY, JSONB)):
            raise _invalid(f"'{words[0]}' cannot be ordered by")
        down = len(words) == 2 and words[1].lower() == "desc"
        places.append(_Place(table.c[field.name], down, not _always_set(field)))
        position += len(part) + 1
    if len(places) > MAX_FIELDS:
        raise _invalid(f"at most {MAX_FIELDS} fields")
    if all(place.column.key != "id" for place in places):
        places.append(_Place(table.c.id, places[-1].down if places else True, optional=False))
    return Order(tuple(places))


def _always_set(field: FieldDescriptor) -> bool:
    """Whether every record has a value: what the platform sets, a state, what is required, its time of happening."""
    if field.name in _ALWAYS_SET or (field.enum_type is not None and not field.has_presence):
        return True
    return contract.is_required(field) or _is_occur_field(field)


def _is_occur_field(field: FieldDescriptor) -> bool:
    kind = contract.load().by_message.get(field.containing_type.full_name) if field.containing_type else None
    return kind is not None and field.name == kind.occur_field


def _invalid(message: str) -> Invalid:
    return invalid("order_by", message, Reason.REASON_ORDER_INVALID)
