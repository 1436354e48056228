"""What the user says about an import."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cyclopts import Parameter

from cli.importing.reading import DELIMITERS
from cli.problems import UsageProblem

MOST_IN_A_BATCH = 1000
_ERRORS_SUFFIX = re.compile(r"\.errors(\d*)\.csv$")


@Parameter(name="*")
@dataclass(kw_only=True)
class Options:
    """The options of every `rapport import`."""

    map: Annotated[
        list[str],
        Parameter(
            help="field=column, or field:=text for every row, in which {column} is the row's cell.",
            negative="",
        ),
    ] = field(default_factory=list)
    value: Annotated[list[str], Parameter(help="field:from=to: what a text in the file stands for.", negative="")] = (
        field(default_factory=list)
    )
    system: Annotated[
        str, Parameter(help="The system whose external ids these are; the file's name where left out.")
    ] = ""
    time_zone: Annotated[
        str, Parameter(help="Where times without a zone are, such as America/Sao_Paulo; UTC where left out.")
    ] = "UTC"
    currency: Annotated[str, Parameter(help="The currency of amounts, such as BRL.")] = ""
    create_owners: Annotated[bool, Parameter(help="Make users for unknown owners.", negative="")] = False
    dry_run: Annotated[bool, Parameter(help="Check every row and write nothing.", negative="")] = False
    errors: Annotated[Path | None, Parameter(help="Where failed rows go; FILE.errors.csv where left out.")] = None
    batch: Annotated[int, Parameter(help="Rows in a call, at most 1000; 500 where left out.")] = 500
    encoding: Annotated[str | None, Parameter(help="The file's encoding, where it is not found out.")] = None
    delimiter: Annotated[str | None, Parameter(help="What stands between cells, where it is not found out.")] = None
    sheet: Annotated[str | None, Parameter(help="The sheet of a workbook; the first where left out.")] = None
    decimal: Annotated[str, Parameter(help="The decimal mark of numbers: . or ,")] = ""
    date_format: Annotated[str, Parameter(help="How dates are written, such as %d/%m/%Y; ISO 8601 is always read.")] = (
        ""
    )
    json: Annotated[bool, Parameter(help="Print the summary as JSON.", negative="")] = False

    def check(self, file: Path) -> None:
        """Completes the options for a file. Raises UsageProblem where one makes no sense."""
        self.system = self.system or original_name(file)
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UsageProblem(f"--time-zone {self.time_zone}: not an IANA name such as America/Sao_Paulo") from error
        if self.currency and not re.fullmatch(r"[A-Z]{3}", self.currency):
            raise UsageProblem(f"--currency {self.currency}: an ISO 4217 code such as BRL has three capital letters")
        if not 1 <= self.batch <= MOST_IN_A_BATCH:
            raise UsageProblem(f"--batch {self.batch}: between 1 and {MOST_IN_A_BATCH}")
        if self.decimal not in ("", ".", ","):
            raise UsageProblem(f"--decimal {self.decimal}: either . or ,")
        self.delimiter = {"tab": "\t", "\\t": "\t"}.get(self.delimiter or "", self.delimiter)
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UsageProblem(f"--delimiter: one character, such as {' '.join(DELIMITERS[:2])} or tab")
        if self.errors is not None and self.errors.exists() and self.errors.samefile(file):
            raise UsageProblem("--errors names the file that is read")

    def errors_path(self, file: Path) -> Path | None:
        """Where failed rows go. A dry run keeps them only where it is told to."""
        if self.errors is not None or self.dry_run:
            return self.errors
        match = _ERRORS_SUFFIX.search(file.name)
        if match is None:
            return file.with_name(f"{file.name}.errors.csv")
        # What is read cannot be written to: the second round's failures go beside it.
        again = int(match[1] or "1") + 1
        return file.with_name(f"{file.name[: match.start()]}.errors{again}.csv")


@Parameter(name="*")
@dataclass(kw_only=True)
class DealOptions:
    """The options of `rapport import deals`."""

    pipeline: Annotated[str, Parameter(help="The pipeline's name; the default pipeline where left out.")] = ""
    stages: Annotated[
        str,
        Parameter(help="Its stages: 'New,Talking,Won:won,Lost:lost'. Made where there is no such pipeline."),
    ] = ""
    won: Annotated[bool, Parameter(help="Every row is a won deal.", negative="")] = False
    convert_leads: Annotated[
        bool, Parameter(help="Each row converts the lead that --map lead=column names.", negative="")
    ] = False
    create_products: Annotated[bool, Parameter(help="Make unknown products.", negative="")] = False


def original_name(file: Path) -> str:
    """The name, without ending, of the file that was first imported: an errors file is of the same system."""
    name = _ERRORS_SUFFIX.sub("", file.name)
    return Path(name).stem
