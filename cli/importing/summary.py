"""What an import tells at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape

from cli.importing.mapping import Plan
from cli.importing.reading import Table
from cli.importing.tally import Tally
from cli.render import print_json, stdout

MOST_SHOWN_NAMES = 5


def as_json(
    tally: Tally, table: Table, plan: Plan, errors: Path | None, seconds: float, interrupted: bool
) -> dict[str, Any]:
    """The summary for programs."""
    return {
        "file": str(table.path),
        "rows": table.row_count,
        "read": tally.read,
        "created": tally.created,
        "updated": tally.updated,
        "unchanged": tally.unchanged,
        "failed": tally.failed,
        "interrupted": interrupted,
        "made": {collection: len(names) for collection, names in tally.made.items()},
        "mapped": {f.target.name: f.source.name for f in plan.fillings},
        "mapped_by_header": [f.target.name for f in plan.by_header],
        "unmapped": plan.unmapped,
        "notes": table.notes,
        "unknown": {word: dict(names.most_common()) for word, names in tally.unknown.items()},
        "remarks": [{"text": text, "rows": rows} for text, rows in tally.remarks.most_common()],
        "failures": [{"line": line, "error": text} for line, text in tally.failures],
        "errors_file": str(errors) if errors else None,
        "seconds": round(seconds, 3),
    }


def show(
    tally: Tally,
    table: Table,
    plan: Plan,
    *,
    errors: Path | None,
    seconds: float,
    interrupted: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Prints the summary on standard output."""
    if json:
        print_json({**as_json(tally, table, plan, errors, seconds, interrupted), "dry_run": dry_run})
        return
    show_mapping(table, plan, interrupted)
    for collection, names in tally.made.items():
        stdout.print(
            f"{len(names):,} {collection} {'would be made' if dry_run else 'made'} for names that were unknown"
        )
    show_rows(tally)
    verb = "would be created" if dry_run else "created"
    counts = [
        f"[bold]{tally.created:,}[/bold] {verb}",
        f"{tally.updated:,} updated",
        f"{tally.unchanged:,} unchanged",
        f"[{'red' if tally.failed else 'default'}]{tally.failed:,} failed[/]",
    ]
    stdout.print(f"{tally.read:,} of {table.row_count:,} rows in {seconds:.1f} s: {', '.join(counts)}")
    if errors is not None:
        stdout.print(f"the failed rows are in {escape(str(errors))}: correct and import that file")
    if interrupted:
        stdout.print("stopped early: the same command again goes on, and finds what is in")


def show_mapping(table: Table, plan: Plan, interrupted: bool) -> None:
    """What was read how."""
    for note in table.notes:
        stdout.print(f"note: {escape(note)}")
    if plan.by_header:
        named = ", ".join(f"{f.source.name} → {f.target.name}" for f in plan.by_header)
        stdout.print(f"mapped by their names: {escape(named)}")
    if plan.unmapped:
        stdout.print(f"not imported: {escape(', '.join(plan.unmapped))}")
    for old, new in unused_values(plan) if not interrupted else ():
        stdout.print(f"note: --value {escape(old)}={escape(new)} met no row")


def show_rows(tally: Tally) -> None:
    """What is to be said of rows."""
    for word, names in tally.unknown.items():
        for name, rows in names.most_common(MOST_SHOWN_NAMES):
            stdout.print(f"{rows:,} × unknown {word} {escape(repr(name))}: {escape(tally.cures.get((word, name), ''))}")
        if len(names) > MOST_SHOWN_NAMES:
            left = names.most_common()[MOST_SHOWN_NAMES:]
            stdout.print(f"{sum(rows for _, rows in left):,} × {len(left):,} more {word} names that are unknown")
    for text, rows in tally.remarks.most_common():
        stdout.print(f"{rows:,} × {escape(text)}")
    for line, text in tally.failures:
        stdout.print(f"[red]line {line}[/red]: {escape(text)}")
    if tally.failed > len(tally.failures):
        stdout.print(f"… and {tally.failed - len(tally.failures):,} more")


def unused_values(plan: Plan) -> list[tuple[str, str]]:
    """The value maps that met nothing in the file: probably misspelt."""
    return [
        (f"{name}:{old}", new)
        for name, mapped in plan.values.items()
        for old, new in mapped.items()
        if (name, old) not in plan.values_used
    ]
