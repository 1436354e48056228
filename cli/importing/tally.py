"""What became of the rows of a file: counts, remarks, and the failed rows in a file of their own."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cli.importing.reading import ERROR_COLUMNS, Row

MOST_REMARKS = 200
MOST_SHOWN_FAILURES = 5


@dataclass
class ErrorsFile:
    """The failed rows as they were, each with why and where: can be corrected and fed again.

    Made with the first failed row; the two columns stand first, so that a row with too many cells stays as
    it was.
    """

    path: Path
    header: Sequence[str]
    _file: TextIO | None = None

    def add(self, row: Row, problem: str) -> None:
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8", newline="")
            csv.writer(self._file).writerow([*ERROR_COLUMNS, *self.header])
        csv.writer(self._file).writerow([problem, row.line, *row.cells])

    def close(self) -> bool:
        """Ends the file. Says whether there is one."""
        if self._file is None:
            return False
        self._file.close()
        return True


@dataclass
class Tally:
    """Counts of a run. `remarks` are what the user should know, each with how many rows it concerns.

    `unknown` are the names that stand for no record, by field, each with its rows; `cures` say what helps.
    `made` are the names that became records beside the rows', by collection; in a dry run those that would.
    """

    errors: ErrorsFile | None
    read: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, Counter[str]] = field(default_factory=dict)
    cures: dict[tuple[str, str], str] = field(default_factory=dict)
    made: dict[str, set[str]] = field(default_factory=dict)
    failures: list[tuple[int, str]] = field(default_factory=list)
    _failed: list[tuple[Row, str]] = field(default_factory=list)

    def done(self, outcome: str) -> None:
        """Counts a row that was accepted. The outcome is the contract's, or `OUTCOME_UNCHANGED`."""
        match outcome:
            case "OUTCOME_UNCHANGED":
                self.unchanged += 1
            case "OUTCOME_UPDATED":
                self.updated += 1
            case _:
                self.created += 1

    def fail(self, row: Row, problem: str) -> None:
        """Counts a row that was not accepted, and keeps it for another try."""
        self.failed += 1
        self._failed.append((row, problem))

    def write_failed(self) -> None:
        """Writes the failed rows of a batch in the file's order, whoever refused them first."""
        for row, problem in sorted(self._failed, key=lambda failure: failure[0].line):
            if len(self.failures) < MOST_SHOWN_FAILURES:
                self.failures.append((row.line, problem))
            if self.errors is not None:
                self.errors.add(row, problem)
        self._failed.clear()

    def miss(self, word: str, name: str, cure: str) -> None:
        """Counts one more row that names a record which is not there."""
        names = self.unknown.setdefault(word, Counter())
        if name in names or len(names) < MOST_REMARKS:
            names[name] += 1
            self.cures[word, name] = cure
        else:
            names["others"] += 1

    def remark(self, text: str) -> None:
        """Counts one more row of which the same is to be said."""
        if text in self.remarks or len(self.remarks) < MOST_REMARKS:
            self.remarks[text] += 1
        else:
            self.remarks["other remarks, not listed"] += 1
