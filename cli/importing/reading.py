"""Files of rows under a header: CSV of any common dialect, and spreadsheets.

A CSV is read twice: once to its end before anything is done with it, so that a file that cannot be read
changes nothing, and then row by row. Memory does not grow with it.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cli.importing import encoding as encodings
from cli.problems import Problem

# The columns an errors file puts before the row's own; ignored when it is fed again.
ERROR_COLUMNS = ("_error", "_line")
DELIMITERS = (",", ";", "\t", "|")
SAMPLE_CHARACTERS = 65_536
LARGEST_WORKBOOK_BYTES = 60_000_000
_WORKBOOK_MARKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the file. `line` is where it begins, counted from 1; `problem` says why it cannot be used."""

    line: int
    cells: list[str]
    problem: str = ""


class RowSource(Protocol):
    """Gives each row with the line it begins at, from the beginning every time. The header is the first."""

    def __iter__(self) -> Iterator[tuple[int, list[str]]]: ...


@dataclass
class Table:
    """A readable file: its header, how many rows stand under it, what the user should know of it."""

    path: Path
    source: RowSource
    header: list[str] = field(default_factory=list)
    row_count: int = 0
    notes: list[str] = field(default_factory=list)
    _dropped: frozenset[int] = frozenset()
    _width: int = 0
    _blank_columns: int = 0

    def rows(self) -> Iterator[Row]:
        """The rows in order, without empty ones. A row that is not as wide as the header has a problem."""
        source = iter(self.source)
        next(source, None)
        for line, cells in source:
            if any(cells):
                yield self._row(line, cells)

    def _row(self, line: int, cells: list[str]) -> Row:
        if self._width < len(cells) <= self._width + self._blank_columns and not any(cells[self._width :]):
            cells = cells[: self._width]
        own = [cell for index, cell in enumerate(cells) if index not in self._dropped]
        if len(cells) == self._width:
            return Row(line, own)
        missing = len(self._dropped)
        return Row(line, own, f"has {len(cells) - missing} cells where the header has {self._width - missing}")


def open_table(
    path: Path, *, encoding: str | None = None, delimiter: str | None = None, sheet: str | None = None
) -> Table:
    """Opens a file and reads it to its end once.

    Raises Problem, naming line and place, when it is no file, empty, of a broken encoding, has a quote
    that is never closed, or names a column twice.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = file.seek(0, io.SEEK_END)
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error
    if not head.strip():
        raise Problem(f"{path} is empty: the first line must name the columns")
    notes: list[str] = []
    source: RowSource
    if head.startswith(_WORKBOOK_MARKS):
        if size > LARGEST_WORKBOOK_BYTES:
            raise Problem(f"{path} is too large for a spreadsheet, which is read whole: save it as CSV")
        source = Workbook(path, sheet)
    else:
        found = encodings.detect(path, encoding)
        notes += [found.note] if found.note else []
        source = Text(path, found.name, delimiter or sniff_delimiter(path, found.name))
    table = Table(path, source, notes=notes)
    read_through(table)
    return table


def read_through(table: Table) -> None:
    """Reads every row, so that what cannot be read is known before anything is done."""
    rows = iter(table.source)
    names = [cell.strip() for cell in next(rows, (0, []))[1]]
    while names and not names[-1]:
        names.pop()
        table._blank_columns += 1
    if not names:
        raise Problem(f"{table.path} is empty: the first line must name the columns")
    if nameless := [index + 1 for index, name in enumerate(names) if not name]:
        names = [name or f"column {index + 1}" for index, name in enumerate(names)]
        table.notes.append(f"columns without a name: {', '.join(map(str, nameless))}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        places = "; ".join(
            f"{name!r} is column {' and '.join(str(i + 1) for i, n in enumerate(names) if n == name)}" for name in twice
        )
        raise Problem(f"{table.path}: the header names a column twice: {places}")
    table._width = len(names)
    table._dropped = frozenset(i for i, name in enumerate(names) if name in ERROR_COLUMNS)
    table.header = [name for name in names if name not in ERROR_COLUMNS]
    empty = 0
    for _, cells in rows:
        table.row_count += 1 if any(cells) else 0
        empty += not any(cells)
    if empty:
        table.notes.append(f"{empty:,} empty rows are skipped")


@dataclass(frozen=True, slots=True)
class Text:
    """The rows of a CSV file."""

    path: Path
    encoding: str
    delimiter: str

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        with self.path.open(encoding=self.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            while True:
                line = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise Problem(f"{self.path}: {quoting(line, reader.line_num, str(error))}") from error
                if cells or line == 1:
                    yield line, cells


def quoting(first: int, last: int, error: str) -> str:
    """What is wrong with the quotes of a row, from the csv module's word for it."""
    lines = f"line {first}" if first == last else f"lines {first} to {last}"
    if "field larger" in error:
        limit = csv.field_size_limit()
        return f"line {first}: a quote is opened here and not closed within {limit:,} characters"
    if "unexpected end" in error:
        return f"line {first}: a quote is opened here and never closed"
    if "expected after" in error:
        return f"{lines}: text follows a closing quote; a quote inside a quoted cell is written twice"
    return f"{lines}: {error}"


def sniff_delimiter(path: Path, encoding: str) -> str:
    """The delimiter under which the beginning of a file makes the most even table; a comma in doubt."""
    with path.open(encoding=encoding, newline="") as file:
        sample = file.read(SAMPLE_CHARACTERS)
    if len(sample) == SAMPLE_CHARACTERS:
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        try:
            rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
            widths = [len(cells) for cells in rows if cells]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            score = (widths.count(widths[0]) / len(widths), widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best


class Workbook:
    """The rows of one sheet of a spreadsheet (XLSX, XLS), its cells as text."""

    def __init__(self, path: Path, sheet: str | None) -> None:
        from python_calamine import CalamineError, CalamineWorkbook

        try:
            book = CalamineWorkbook.from_path(path)
            names = book.sheet_names
            if sheet is not None and sheet not in names:
                raise Problem(f"{path} has no sheet {sheet!r}; it has {', '.join(map(repr, names))}")
            self._sheet = book.get_sheet_by_name(sheet) if sheet else book.get_sheet_by_index(0)
        except (CalamineError, ValueError, OSError) as error:
            raise Problem(f"{path} is not a spreadsheet that can be read: {error}") from error

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        width = 0
        for line, values in enumerate(self._sheet.iter_rows(), start=1):
            cells = [as_text(value) for value in values]
            if not width:
                while cells and not cells[-1]:
                    cells.pop()
                width = len(cells)
                if not width:
                    continue  # rows above the header
            elif not any(cells[width:]):
                cells = cells[:width]  # a sheet is as wide as its widest row
            yield line, cells


def as_text(value: object) -> str:
    """A cell's value as a CSV would hold it. Spreadsheets keep every number as a float of 15 digits."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
        case dt.datetime():
            return value.isoformat(sep=" ")
        case dt.date() | dt.time():
            return value.isoformat()
        case None:
            return ""
        case _:
            return str(value)
