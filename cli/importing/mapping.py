"""Which column fills which field: what the user says, else what the header says."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cli.importing.targets import Kind, Target, Targets
from cli.problems import UsageProblem

_MAP = re.compile(r"(?P<target>[A-Za-z_][\w.]*)(?P<constant>:?)=(?P<source>.*)", re.DOTALL)
_VALUE = re.compile(r"(?P<target>[A-Za-z_][\w.]*):(?P<old>.*?)=(?P<new>.*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Column:
    """A cell of the row."""

    name: str
    index: int

    def text(self, cells: Sequence[str]) -> str:
        return cells[self.index].strip()


@dataclass(frozen=True, slots=True)
class Template:
    """The same text for every row; `{column}` in it stands for the row's cell."""

    name: str
    columns: tuple[Column, ...] = ()

    def text(self, cells: Sequence[str]) -> str:
        filled = self.name
        for column in self.columns:
            filled = filled.replace(f"{{{column.name}}}", column.text(cells))
        return filled.strip()


@dataclass(frozen=True, slots=True)
class Filling:
    """A target and what fills it. `element` counts the sources of a target that are given several times."""

    target: Target
    source: Column | Template
    element: int = 0

    @property
    def constant(self) -> bool:
        """Whether it says nothing of the row."""
        return isinstance(self.source, Template) and not self.source.columns


@dataclass
class Plan:
    """How rows become records. `by_header` are the fillings nobody asked for, `unmapped` the columns left."""

    fillings: list[Filling]
    by_header: list[Filling]
    unmapped: list[str]
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    values_used: set[tuple[str, str]] = field(default_factory=set)

    def fills(self, target: str) -> bool:
        """Whether anything fills the target of that name."""
        return any(filling.target.name == target for filling in self.fillings)

    def texts(self, cells: Sequence[str]) -> list[tuple[Filling, str]]:
        """What fills what in this row, values mapped; empty texts are left out."""
        found = []
        for filling in self.fillings:
            name, text = filling.target.name, filling.source.text(cells)
            if text in self.values.get(name, ()):
                self.values_used.add((name, text))
                text = self.values[name][text]
            if text:
                found.append((filling, text))
        return found


def plan(
    targets: Targets, header: Sequence[str], maps: Iterable[str], values: Iterable[str], needs_currency: bool
) -> Plan:
    """Reads `field=column`, `field:=constant` and `field:from=to`; maps other columns by their names.

    `needs_currency`: no currency is given otherwise, so a column `currency` is taken where there is one.
    Raises UsageProblem naming the field or column that does not exist and the nearest that does.
    """
    columns = {name: Column(name, index) for index, name in enumerate(header)}
    asked: list[Filling] = []
    for text in maps:
        target, source = parse_map(text, targets, columns)
        element = sum(filling.target.path == target.path for filling in asked) if target.path else 0
        if element and not any(step.repeated for step in target.path):
            raise UsageProblem(f"--map {text}: {target.name} is mapped already")
        asked.append(Filling(target, source, element))
    taken = {filling.target.path or filling.target.name for filling in asked}
    used = {column.name for filling in asked for column in columns_of(filling.source)}
    by_header = []
    for name, column in columns.items():
        found = targets.find(normalised(name))
        if found is None or name in used or (found.path or found.name) in taken:
            continue
        if found.name == "currency" and not needs_currency:
            continue
        taken.add(found.path or found.name)
        used.add(name)
        by_header.append(Filling(found, column))
    made = Plan([*asked, *by_header], by_header, [name for name in columns if name not in used])
    for text in values:
        target_name, old, new = parse_value(text, targets)
        if not made.fills(target_name):
            raise UsageProblem(f"--value {text}: no column is mapped to {target_name}")
        made.values.setdefault(target_name, {})[old] = new
    # A row's currency is read before its amounts.
    made.fillings.sort(key=lambda filling: filling.target.kind is Kind.MONEY)
    return made


def columns_of(source: Column | Template) -> tuple[Column, ...]:
    """The columns a source reads."""
    return (source,) if isinstance(source, Column) else source.columns


def normalised(name: str) -> str:
    """A header as a field would be written: `Display Name` as `display_name`."""
    return re.sub(r"[\s-]+", "_", name.strip()).lower()


def parse_map(text: str, targets: Targets, columns: dict[str, Column]) -> tuple[Target, Column | Template]:
    """One --map: the target and what fills it."""
    match = _MAP.fullmatch(text)
    if match is None:
        raise UsageProblem(f"--map {text}: write field=column, or field:=text for the same text in every row")
    target = known_target(match["target"], targets, f"--map {text}")
    source = match["source"]
    if not match["constant"]:
        return target, known_column(source, columns, f"--map {text}")
    names = _PLACEHOLDER.findall(source)
    return target, Template(source, tuple(known_column(name, columns, f"--map {text}") for name in names))


def parse_value(text: str, targets: Targets) -> tuple[str, str, str]:
    """One --value: the target's name, the text in the file and what it means."""
    match = _VALUE.fullmatch(text)
    if match is None:
        raise UsageProblem(f"--value {text}: write field:from=to, for example product:GTXPro='GTX Pro'")
    target = known_target(match["target"], targets, f"--value {text}")
    return target.name, match["old"].strip(), match["new"].strip()


def known_target(name: str, targets: Targets, option: str) -> Target:
    """The target of that name. Raises UsageProblem with the nearest ones where there is none."""
    found = targets.find(name)
    if found is None:
        near = difflib.get_close_matches(name, targets.by_name, 1, 0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(targets.by_name))}"
        raise UsageProblem(f"{option}: no field {name!r} can be filled; {hint}")
    return found


def known_column(name: str, columns: dict[str, Column], option: str) -> Column:
    """The column of that name. Raises UsageProblem with the nearest ones where there is none."""
    found = columns.get(name.strip())
    if found is None:
        near = difflib.get_close_matches(name, columns, 1, 0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, columns))}"
        raise UsageProblem(f"{option}: the file has no column {name!r}; {hint}")
    return found
