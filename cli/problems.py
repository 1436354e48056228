"""What can go wrong in a command, said in one line."""

from __future__ import annotations

from dataclasses import dataclass, field


class Problem(Exception):
    """Ends a command. Its text is the one line the user reads: what is wrong, where, what would be right."""

    exit_code = 1


class UsageProblem(Problem):
    """The command was given something it cannot take."""

    exit_code = 2


class Unreachable(Problem):
    """The platform did not answer, however often it was asked."""


@dataclass
class Refused(Problem):
    """The platform answered with an error. The fields are those of its error body."""

    http_status: int
    status: str
    message: str
    reason: str = ""
    violations: list[tuple[str, str]] = field(default_factory=list)
    trace_id: str = ""

    def __str__(self) -> str:
        # The message of a failed check usually names its fields already.
        extra = [f"{name}: {text}" for name, text in self.violations if text not in self.message]
        said = "; ".join([self.message, *extra])
        return f"{said} (trace {self.trace_id})" if self.http_status >= 500 and self.trace_id else said
