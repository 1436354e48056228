"""One call through every part: a trace as a tree with timings."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

import httpx2

from cli.client import Json
from cli.problems import Problem, UsageProblem
from cli.render import cell, print_json, print_table, seconds, stdout, table
from cli.settings import Settings

# Exporters send in batches every few seconds; a trace that ended longer ago has all its spans.
SETTLED_AFTER_S = 15.0
QUIET_S = 2.0
_TRACE_ID = re.compile(r"(?:00-)?([0-9a-f]{32})(?:-[0-9a-f]{16}-[0-9a-f]{2})?")
_BAR = 24


def show(settings: Settings, trace: str, wait_s: float, json: bool) -> None:
    """Prints a trace. Waits up to `wait_s` for spans still on their way. Raises Problem where there are none."""
    match = _TRACE_ID.fullmatch(trace.strip().lower())
    if match is None:
        raise UsageProblem(f"{trace!r} is not a trace id: it has 32 hexadecimal digits")
    if not settings.traces_url:
        raise Problem("no trace store is known: set RAPPORT_TRACES_URL (`make up` starts one)")
    found = settled(settings.traces_url, match[1], wait_s)
    if json:
        print_json(found)
        return
    spans = sorted(found["spans"], key=lambda span: int(span["start_unix_nano"]))
    began = int(spans[0]["start_unix_nano"])
    ended = max(int(span["end_unix_nano"]) for span in spans)
    services = len({span["service"] for span in spans})
    stdout.print(
        f"[bold]{match[1]}[/bold]: {len(spans)} spans in {services} services, {seconds((ended - began) / 1e9)}"
    )
    made = table("span", "service", "at", "took", "", right=("at", "took"))
    for branch, span in rows(spans):
        start, end = int(span["start_unix_nano"]) - began, int(span["end_unix_nano"]) - began
        name = cell(span["name"])
        made.add_row(
            f"[dim]{branch}[/dim]{name}"
            if span.get("status") != "ERROR"
            else f"[dim]{branch}[/dim][red]{name} ✗[/red]",
            cell(span["service"]),
            f"+{start / 1e6:.1f} ms",
            f"{(end - start) / 1e6:.1f} ms",
            place(start, end, max(ended - began, 1)),
        )
    print_table(made)


def settled(url: str, trace_id: str, wait_s: float) -> Json:
    """The trace once no more spans come, or the wait is over."""
    deadline = time.monotonic() + wait_s
    found, quiet_since = fetch(url, trace_id), time.monotonic()
    while time.monotonic() < deadline and not is_settled(found, quiet_since):
        time.sleep(0.25)
        again = fetch(url, trace_id)
        if again and (not found or len(again["spans"]) != len(found["spans"])):
            found, quiet_since = again, time.monotonic()
    if not found:
        raise Problem(f"no trace {trace_id} is stored: it may be older than what is kept")
    return found


def is_settled(found: Json | None, quiet_since: float) -> bool:
    """Whether a trace has all its spans."""
    if not found:
        return False
    ended = max(int(span["end_unix_nano"]) for span in found["spans"]) / 1e9
    if time.time() - ended > SETTLED_AFTER_S:
        return True
    whole = any(not span.get("parent_span_id") for span in found["spans"])
    return whole and time.monotonic() - quiet_since > QUIET_S


def fetch(url: str, trace_id: str) -> Json | None:
    """What the store has of a trace; None where nothing. Raises Problem where it does not answer."""
    try:
        response = httpx2.get(f"{url}/traces/{trace_id}", timeout=5.0, trust_env=False)
    except httpx2.TransportError as error:
        raise Problem(f"the trace store at {url} does not answer: {error}") from error
    if response.status_code == 404:
        return None
    if not response.is_success:
        raise Problem(f"the trace store answered HTTP {response.status_code}")
    found: Json = response.json()
    return found if found.get("spans") else None


def rows(spans: Sequence[Json]) -> Iterator[tuple[str, Json]]:
    """Every span after the one above it, with the branches that lead to it. Those whose parent is missing are roots."""
    known = {span["span_id"] for span in spans}
    below: dict[str, list[Json]] = {}
    for span in spans:
        parent = span.get("parent_span_id", "")
        below.setdefault(parent if parent in known else "", []).append(span)

    def grow(span: Json, branch: str, indent: str) -> Iterator[tuple[str, Json]]:
        yield branch, span
        children = below.get(span["span_id"], [])
        for child in children:
            last = child is children[-1]
            yield from grow(child, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  "))

    for root in below.get("", []):
        yield from grow(root, "", "")


def place(start: int, end: int, whole: int) -> str:
    """When a span ran within the trace, as a bar."""
    left = min(_BAR - 1, start * _BAR // whole)
    length = max(1, min(_BAR - left, round((end - start) * _BAR / whole)))
    return (" " * left + "━" * length).ljust(_BAR)
