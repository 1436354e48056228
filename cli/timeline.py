"""What happened to a customer, in the order it happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.client import Client, Json
from cli.names import Names
from cli.render import cell, moment, plain, print_json, print_table, short_enum, stdout, table

LONGEST_CHANGE = 100
# Said by every change, and so by none.
_UNREMARKABLE = {"etag", "create_time", "update_time", "id"}


def show(
    client: Client,
    record_id: str,
    kinds: Sequence[str],
    ascending: bool,
    limit: int | None,
    changes: bool,
    json: bool,
) -> None:
    """Prints the timeline of a record and of all that is linked to it."""
    params = {"kinds": list(kinds), **({"ascending": "true"} if ascending else {})}
    entries = list(client.pages(f"/v1/timeline/{record_id}", "entries", params, limit))
    if json:
        print_json(entries)
        return
    if not entries:
        stdout.print("nothing has happened yet" if not kinds else f"no {', '.join(kinds)} entries")
        return
    print_table(as_table(entries, Names(client), changes=changes))
    if limit is not None and len(entries) == limit:
        stdout.print(f"the first {limit:,}; --limit shows more")


def as_table(entries: Sequence[Json], names: Names, *, changes: bool = False) -> Any:
    """Entries of a timeline as a table, where wanted with the fields that changed."""
    names.read(entry.get("actor", "") for entry in entries)
    made = table("when (UTC)", "what", "record", "by", "trace")
    for entry in entries:
        made.add_row(
            moment(entry.get("occur_time", "")),
            entry["kind"],
            cell(entry.get("display_name") or entry["entity_id"]),
            cell(names.of(entry.get("actor", ""))),
            entry.get("trace_id", ""),
        )
        for change in entry.get("changes", []) if changes else ():
            if change.get("field") not in _UNREMARKABLE:
                made.add_row("", "", f"  {said(change)}")
    return made


def said(change: Json) -> str:
    """A field's change in words."""
    name = str(change.get("field"))
    before, after = (plain(short_enum(name, change.get(side))) for side in ("before", "after"))
    arrow = f"{before} → {after}" if before else after or "(cleared)"
    text = f"{name}: {arrow}"
    return cell(text if len(text) <= LONGEST_CHANGE else f"{text[:LONGEST_CHANGE]}…")
