"""Who did, read or was refused what."""

from __future__ import annotations

import csv
import json as jsonlib
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from cli.client import PAGE_SIZE, Client, Json
from cli.flags import Json as JsonFlag
from cli.flags import at_least_one
from cli.problems import Problem
from cli.render import cell, moment, print_json, print_table, stderr, table
from cli.settings import load

PATH = "/v1/audit/entries"
# How often a page that lacks a part is asked for again, and after how many seconds.
_AGAIN, _PAUSE_S = 5, 1.0
_COLUMNS = (
    "time", "kind", "principal", "credential", "method", "type", "resource", "record_id", "record_ids", "changed",
    "query", "row_count", "outcome", "request_id", "trace_id", "network", "id",
    "cause_event_id",
)  # fmt: skip
# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    CSV = "csv"


class Incomplete(Problem):
    """A part of the platform did not answer, so that entries would be missing."""

    exit_code = 3


def list_entries(
    *, filter: str = "", record: str = "", since: str = "", until: str = "", limit: int = 50, json: JsonFlag = False
) -> None:
    """List what was done, read and refused, the newest first.

    Parameters
    ----------
    filter
        Which entries, such as 'kind = READ AND principal = "user_01h…"'; docs/audit.md names the fields.
    record
        Only entries about this record.
    since
        Only this time and later, such as 2026-01-31T12:00:00Z.
    until
        Only before this time.
    limit
        How many at most; 50 where left out.
    """
    at_least_one(limit)
    found: list[Json] = []
    missing: set[str] = set()
    with Client(load()) as client:
        for page in _pages(client, filter, record, since, until, limit):
            found += page["entries"][: limit - len(found)]
            missing |= {each["part"] for each in page["missing"]}
            if len(found) >= limit:
                break
    if json:
        print_json({"entries": found, "missing": sorted(missing)})
    elif found:
        print_table(_as_table(found))
    if missing:
        stderr.print(f"[yellow]without[/yellow] {', '.join(sorted(missing))}: no answer from there")


def export(
    *, since: str = "", until: str = "", filter: str = "", record: str = "", format: Format = Format.JSONL
) -> None:
    """Write every entry to standard output, the newest first; nothing but all of it: ends with 3 where a part is down.

    Parameters
    ----------
    since
        Only this time and later, such as 2026-01-31T12:00:00Z.
    until
        Only before this time. For exports that follow each other, one that is a minute past.
    filter
        Which entries, as in `rapport audit list`.
    record
        Only entries about this record.
    format
        jsonl, a JSON object a line; or csv.
    """
    rows = csv.writer(sys.stdout, lineterminator="\n")
    if format is Format.CSV:
        rows.writerow(_COLUMNS)
    with Client(load(), patience_s=30.0) as client:
        for page in _pages(client, filter, record, since, until, PAGE_SIZE, whole=True):
            for entry in page["entries"]:
                if format is Format.CSV:
                    rows.writerow([_safe(entry.get(name)) for name in _COLUMNS])
                else:
                    sys.stdout.write(jsonlib.dumps(entry, ensure_ascii=False) + "\n")


def _pages(
    client: Client, filter: str, record: str, since: str, until: str, size: int, *, whole: bool = False
) -> Iterator[Json]:
    """Every page. Where it shall be ``whole``, one that lacks a part is asked for again. Raises Incomplete then."""
    about = f'(record_id = "{record}" OR record_ids = "{record}")' if record else ""
    params: dict[str, Any] = {"page_size": min(size, PAGE_SIZE)}
    params |= {"filter": " AND ".join(each for each in (f"({filter})" if filter and about else filter, about) if each)}
    params |= {name: value for name, value in (("start_time", since), ("end_time", until)) if value}
    token = ""
    while True:
        page = _page(client, params | ({"page_token": token} if token else {}), whole=whole)
        yield page
        token = page["next_page_token"]
        if not token:
            return


def _page(client: Client, params: Json, *, whole: bool) -> Json:
    for left in range(_AGAIN, -1, -1):
        page = client.get(PATH, params)
        if not (whole and page["missing"]):
            return page
        if not left:
            names = ", ".join(each["part"] for each in page["missing"])
            raise Incomplete(f"not everything is there: no answer from {names}; export again")
        time.sleep(_PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def _as_table(entries: list[Json]) -> Any:
    made = table("time", "what", "who", "record", "about", "outcome")
    for each in entries:
        kind = each["kind"].removeprefix("AUDIT_KIND_").lower()
        _, _, name = (each["type"] or each["method"]).rpartition(".v1.")
        records = each["record_id"] or (f"{len(each['record_ids'])} records" if each["record_ids"] else "")
        about = ", ".join(each["changed"]) or each["query"]
        outcome = "" if each["outcome"] == "OK" else each["outcome"]
        what = f"{kind} {name}"
        made.add_row(moment(each["time"]), *(cell(it) for it in (what, each["principal"], records, about, outcome)))
    return made


def _safe(value: Any) -> str:
    """A value as a cell that no spreadsheet runs."""
    text = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
