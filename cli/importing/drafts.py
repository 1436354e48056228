"""A row on its way to becoming a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cli.client import Json
from cli.importing.mapping import Column, Filling, Plan
from cli.importing.reading import Row
from cli.importing.targets import Step
from cli.importing.values import Reading


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a cell that stands for a record: its id goes to where `filling` leads."""

    filling: Filling
    text: str

    @property
    def collection(self) -> str:
        """Where it is looked up."""
        return self.filling.target.lookup


@dataclass
class Draft:
    """What a row says so far.

    `record` is the record as JSON; `beside` holds what goes beside it (`external_id`, `occur_time`, `stage`
    and so on); `names` are still to be looked up; a draft with `problems` is not sent.
    """

    row: Row
    record: Json = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    names: list[Name] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def place(self, filling: Filling, value: Any) -> None:
        """Puts a value where a filling leads."""
        if filling.target.path:
            place(self.record, filling.target.path, filling.element, value)
        else:
            self.beside[f"{filling.target.name}_id"] = value


def draft(row: Row, plan: Plan, reading: Reading) -> Draft:
    """Reads a row as the plan says. What cannot be read becomes a problem that names its column."""
    made = Draft(row)
    if row.problem:
        made.problems.append(row.problem)
        return made
    said_by_row: set[tuple[str, int]] = set()
    for filling, text in plan.texts(row.cells):
        target = filling.target
        if not filling.constant and target.path:
            said_by_row.add((target.path[0].name, filling.element))
        if target.lookup:
            made.names.append(Name(filling, text))
            continue
        try:
            value = reading.value(target.kind, text, made.beside.get("currency", ""))
        except ValueError as error:
            source = filling.source
            where = f"column {source.name!r}" if isinstance(source, Column) else target.name
            made.problems.append(f"{where}: {text!r} {error}")
            continue
        if target.path:
            made.place(filling, value)
        else:
            made.beside[target.name] = value
    drop_empty_elements(made.record, plan, said_by_row)
    return made


def place(record: Json, path: tuple[Step, ...], element: int, value: Any) -> None:
    """Puts a value into a record at the end of a path; the path's first list takes it as its `element`."""
    here = record
    for step in path[:-1]:
        if step.repeated:
            items = here.setdefault(step.name, [])
            items.extend({} for _ in range(element + 1 - len(items)))
            here, element = items[element], 0
        else:
            here = here.setdefault(step.name, {})
    last = path[-1]
    if last.repeated:
        here.setdefault(last.name, []).extend(value if isinstance(value, list) else [value])
    else:
        here[last.name] = value


def drop_empty_elements(record: Json, plan: Plan, said_by_row: set[tuple[str, int]]) -> None:
    """Takes out list elements of which the row says nothing, such as a region without a telephone number."""
    lists = {
        filling.target.path[0].name
        for filling in plan.fillings
        if len(filling.target.path) > 1 and filling.target.path[0].repeated
    }
    for name in lists & record.keys():
        kept = [item for index, item in enumerate(record[name]) if item and (name, index) in said_by_row]
        if kept:
            record[name] = kept
        else:
            del record[name]
