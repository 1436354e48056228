"""What a page, a search, a timeline and a report cost in a small and in a large tenant of the same platform."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from tests.bench import records
from tests.bench.goals import Row, not_measured, within
from tests.bench.load import Wrk
from tests.bench.measure import Case, interleaved
from tests.bench.records import Records
from tests.bench.requests import us
from tests.bench.settings import Settings
from tests.bench.stack import Stack

ROWS = ("scale page", "scale search", "scale timeline", "scale report", "scale funnel")
# In a short run the tenant of the other requests is the large one.
_SMALL, _SMALL_FULL, _LARGE_FULL = 1_000, 10_000, 1_000_000
_TITLES = {
    "page": "page of 50, sorted",
    "search": "text search",
    "timeline": "timeline",
    "report": "pipeline report",
    "funnel": "funnel report",
}
# A report over a million deals takes a while; more at once would only wait for each other.
_CONNECTIONS = 2


def run(settings: Settings, stack: Stack, found: Records) -> Iterator[Row]:
    """Fills a small and, in a full run, a large tenant, measures what is wanted in turn and yields its rows.

    Ends the program with a message where the disk has no room for the large one.
    """
    small = records.fill(stack, _SMALL_FULL if settings.full else _SMALL, None)
    large = records.fill(stack, _LARGE_FULL, settings.people or None) if settings.full or settings.people else found
    wanted = [row.removeprefix("scale ") for row in ROWS if settings.wants(row)]
    cases = [_case(f"{what} {name}", stack, tenant, lines)
             for name, tenant in (("small", small), ("large", large))
             for what, lines in _lines(tenant).items() if what in wanted]  # fmt: skip
    # A short run has to end in three minutes; these figures differ less from round to round than others do.
    rounds = settings.rounds if settings.full else max(2, settings.rounds - 1)
    measured = interleaved(sorted(cases, key=lambda case: case.name), rounds, settings.seconds)
    for what in wanted:
        few, many = measured[f"{what} small"], measured[f"{what} large"]
        name = f"{_TITLES[what]}, {large.rows:,} by {small.rows:,}"
        if failure := few.failure or many.failure:
            yield not_measured(name, failure, failed=True)
            continue
        yield within(
            name, us(many, "platform", 1e-3), "ms", us(few, "platform", 1e-3), _growth(what, small, large),
            note="CPU a request of all processes in the large tenant; floor: in the small one",
            beside={"postgres ms": many.median_us("postgres") / 1000, "p50 ms": many.loads[-1].p50_ms},
        )  # fmt: skip


def _growth(what: str, small: Records, large: Records) -> float:
    """How much log n grows from the small tenant to the large one."""
    if what in ("page", "search"):
        return math.log(large.size) / math.log(small.size)
    return math.log(large.rows) / math.log(small.rows)


def _case(name: str, stack: Stack, found: Records, lines: list[str]) -> Case:
    load = Wrk(stack.url, {"Authorization": f"Bearer {found.client.key}"}, lines, connections=_CONNECTIONS)
    # Reads have no effects to wait for.
    return Case(name, load, {"platform": stack.whole, "postgres": stack.pids("postgres")})


def _lines(found: Records) -> Mapping[str, list[str]]:
    pages = "/v1/contacts?page_size=50&order_by=display_name"
    return {
        "page": [pages, *(f"{pages}&page_token={quote(token)}" for token in _tokens(found))],
        "search": [f"/v1/search?types=contact&page_size=50&query={quote(name)}" for name in found.names],
        "timeline": [f"/v1/timeline/{found.busiest}", *(f"/v1/timeline/{each}" for each in found.people[:50])],
        "report": ["/v1/reports/pipeline"],
        "funnel": ["/v1/reports/funnel?split_by=FUNNEL_SPLIT_SOURCE"],
    }


def _tokens(found: Records) -> Iterator[str]:
    """The tokens of the next few pages."""
    token = ""
    for _ in range(10):
        answer = found.client.get("/v1/contacts", page_size=50, order_by="display_name", page_token=token)
        if not (token := answer.get("next_page_token", "")):
            return
        yield token
