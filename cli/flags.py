"""Arguments that many commands take."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cli.problems import UsageProblem

Json = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs.", negative="")]
Id = Annotated[str, Parameter(name="ID")]
Flag = Annotated[bool, Parameter(negative="")]
Texts = Annotated[list[str] | None, Parameter(negative="")]


def at_least_one(limit: int) -> int:
    """A limit that shows something. Raises UsageProblem otherwise."""
    if limit < 1:
        raise UsageProblem(f"--limit {limit}: at least 1")
    return limit
