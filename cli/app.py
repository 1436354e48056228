"""The command line as a whole: its commands, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cyclopts
from cyclopts import App, Parameter
from rich.markup import escape

from cli import audit, proposals
from cli.commands import access, customers, following, imports, records, reports
from cli.problems import Problem, UsageProblem
from cli.render import stderr

app = App(
    name="rapport",
    help="Rapport from the command line: import files, read histories, see where customers are lost.",
    version="0.1.0",
    default_parameter=Parameter(show_default=False),
)
for group in (imports.commands, audit.commands, proposals.proposals, proposals.agents):
    app.command(group)
# These stand beside each other, without a word of their own in front.
for group in (records.commands, customers.commands, reports.commands, following.commands, access.commands):
    app.command(group, name="*")


def main(arguments: Sequence[str]) -> int:
    """Runs a command line. The exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return say(" ".join(str(error).split()), UsageProblem.exit_code)
    except Problem as problem:
        return say(str(problem), problem.exit_code)
    except BrokenPipeError:
        # Whoever read our output has enough: `rapport list … | head`. Python must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


def say(problem: str, code: int) -> int:
    """Tells the user what is wrong, on one line."""
    stderr.print(f"[bold red]rapport:[/bold red] {escape(' '.join(problem.split()))}")
    return code
