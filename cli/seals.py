"""Whether the record of what happened is what was sealed."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

from rich.markup import escape

from cli.client import Client
from cli.flags import Json
from cli.problems import Problem, UsageProblem
from cli.render import cell, moment, print_json, print_table, stderr, stdout, table
from cli.settings import load

_STATE = "AUDIT_STATE_"
_COLUMNS = ("log", "state", "rows", "erased", "expired", "not sealed yet", "last seal", "sealed at")
_FIGURES = ("checked_rows", "redacted_rows", "expired_rows", "unsealed_rows")


class Tampered(Problem):
    """The record was changed."""


class Unverified(Problem):
    """Not everything could be checked."""

    exit_code = 3


def verify(*, heads: Path | None = None, json: Json = False) -> None:
    """Compare every row of the audit with its seal. Ends with 1 where something was changed, 3 where a part is down.

    Parameters
    ----------
    heads
        A file that `rapport audit heads` wrote earlier. Only with one it shows that the end was cut off.
    """
    body: dict[str, Any] = {"heads": read_heads(heads)} if heads else {}
    with Client(load()) as client:
        found = client.post("/v1/audit:verify", body)
        while found.get("next_page_token"):
            found = client.post("/v1/audit:verify", body | {"page_token": found["next_page_token"]})
    if json:
        print_json(found)
    else:
        show(found["logs"])
    judge(found["logs"], with_heads=heads is not None, json=json)


def show_heads() -> None:
    """Print the newest seal of each log as JSON, to be kept elsewhere for a later `rapport audit verify --heads`."""
    with Client(load()) as client:
        found = client.get("/v1/audit/heads")
    print_json(found)
    if missing := found.get("missing"):
        raise Unverified(f"no answer from {', '.join(missing)}: their heads are not among these")


def read_heads(file: Path) -> list[dict[str, Any]]:
    """The heads in a file. Raises UsageProblem where it holds none."""
    try:
        found = jsonlib.loads(file.read_text())["heads"]
    except OSError as error:
        raise UsageProblem(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageProblem(f"{file} is not what `rapport audit heads` writes") from error
    if not isinstance(found, list):
        raise UsageProblem(f"{file} is not what `rapport audit heads` writes")
    return [each for each in found if int(each.get("sequence", 0))]


def show(logs: list[dict[str, Any]]) -> None:
    """Prints a line for each log."""
    made = table(*_COLUMNS, right=_COLUMNS[2:7])
    for each in logs:
        head = each.get("head") or {}
        made.add_row(
            escape(name_of(each)),
            each["state"].removeprefix(_STATE).lower(),
            *(cell(each.get(name, "0")) for name in _FIGURES),
            cell(head.get("sequence", "0")),
            moment(head.get("seal_time") or ""),
        )
    print_table(made)


def judge(logs: list[dict[str, Any]], *, with_heads: bool, json: bool) -> None:
    """Raises Problem unless everything was checked and found as it was sealed."""
    tampered = [f"{name_of(each)}: {each['problem']['message']}" for each in logs if each.get("problem")]
    missing = [each.get("missing") or name_of(each) for each in logs if each["state"] == f"{_STATE}UNVERIFIED"]
    if tampered:
        raise Tampered(f"the audit was tampered with: {'; '.join(tampered)}")
    if missing:
        raise Unverified(f"not everything could be checked: {'; '.join(missing)}")
    if json:
        return
    stdout.print("nothing that was sealed has changed")
    if not with_heads:
        stderr.print("[dim]that the end was cut off shows only with --heads, see docs/audit.md[/dim]")


def name_of(log: dict[str, Any]) -> str:
    """A log as people call it, such as `sales ledger`."""
    return f"{log['service']} {log.get('log', '')}".strip()
