"""The order of a list, and the condition that begins the page after a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from sqlalchemy import ColumnElement, Table, and_, false, or_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis.errors import Invalid, Reason, invalid
from chassis.query.operands import field_of
from chassis.rows import Row

MAX_FIELDS: Final = 5


@dataclass(frozen=True)
class Order:
    """Columns and, for each, whether it descends. The last one is the id, so no two rows are equal."""

    columns: tuple[tuple[ColumnElement[Any], bool], ...]

    def clauses(self) -> list[ColumnElement[Any]]:
        """What ORDER BY takes. Rows without a value come last."""
        return [
            column if _never_null(column) and not down
            else column.desc() if _never_null(column)
            else (column.desc() if down else column.asc()).nulls_last()
            for column, down in self.columns
        ]  # fmt: skip

    def after(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """The rows that come after the one with these values, one for each column."""
        ways: list[ColumnElement[bool]] = []
        equal: list[ColumnElement[bool]] = []
        for (column, down), value in zip(self.columns, values, strict=True):
            ways.append(and_(*equal, _beyond(column, down, value)))
            equal.append(column.is_(None) if value is None else column == value)
        return or_(*ways)

    def values(self, row: Row) -> list[Any]:
        """The row's place in this order."""
        return [row[column.key] for column, _ in self.columns]  # type: ignore[index]


def _never_null(column: Any) -> bool:
    return not getattr(column, "nullable", True)


def _beyond(column: Any, down: bool, value: Any) -> ColumnElement[bool]:
    if value is None:
        return false()
    beyond = column < value if down else column > value
    return beyond if _never_null(column) else or_(beyond, column.is_(None))


def parse_order(text: str, resource: Descriptor, table: Table) -> Order:
    """The order that ``text`` asks for, such as ``amount desc, display_name``; newest first for an empty text.

    Raises Invalid, ORDER_INVALID, for a field that does not exist or cannot be ordered by.
    """
    columns: list[tuple[ColumnElement[Any], bool]] = []
    position = 0
    for part in text.split(",") if text.strip() else ():
        words = part.split()
        if not 1 <= len(words) <= 2 or (len(words) == 2 and words[1].lower() not in ("asc", "desc")):
            raise _invalid(f"'{part.strip()}' is not a field, or a field and 'desc'")
        field = field_of(resource, words[0], reason=Reason.REASON_ORDER_INVALID, what="order_by", position=position)
        if field.name not in table.c or isinstance(table.c[field.name].type, (ARRAY, JSONB)):
            raise _invalid(f"'{words[0]}' cannot be ordered by")
        columns.append((table.c[field.name], len(words) == 2 and words[1].lower() == "desc"))
        position += len(part) + 1
    if len(columns) > MAX_FIELDS:
        raise _invalid(f"at most {MAX_FIELDS} fields")
    if all(column.key != "id" for column, _ in columns):
        columns.append((table.c.id, columns[-1][1] if columns else True))
    return Order(tuple(columns))


def _invalid(message: str) -> Invalid:
    return invalid("order_by", message, Reason.REASON_ORDER_INVALID)
