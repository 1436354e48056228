"""``make bench``: measures the platform against floors of the same run and says which goals are met.

Exit code 0 also where goals are short, for this measures; 1 where something could not be measured, 2 where a load
generator is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator

from tests.bench import records, report, requests
from tests.bench.goals import Row
from tests.bench.load import LoadFailed, missing
from tests.bench.settings import Settings
from tests.bench.stack import stack

_ROWS = (*requests.ROWS,)


def _settings(arguments: list[str] | None = None) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="longer rounds, more records: about half an hour")
    parser.add_argument("--only", default="", help=f"rows with commas between: {', '.join(_ROWS)}")
    parser.add_argument("--seconds", type=float, help="length of a round")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    given = parser.parse_args(arguments)
    only = frozenset(name.strip() for name in given.only.split(",") if name.strip())
    if unknown := only - set(_ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(_ROWS)}")
    return Settings(
        full=given.full,
        only=only,
        seconds=given.seconds or (10.0 if given.full else 1.0),
        rounds=given.rounds or (5 if given.full else 3),
    )


def _measure(settings: Settings) -> Iterator[Row]:
    """Starts what is needed, measures group by group, and takes everything down."""
    with contextlib.ExitStack() as running:
        _say("starting a platform")
        one = running.enter_context(stack())
        _say("filling a tenant")
        found = records.fill(one)
        two = None
        if settings.wants("replicas"):
            _say("starting a platform with two of each process")
            other = running.enter_context(stack(replicas=2))
            two = other, records.fill(other, people=1_000, companies=0, deals=0)
        _say("measuring requests")
        yield from requests.run(settings, one, found, two)


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Measures, prints and saves. Returns the exit code."""
    if lacking := missing():
        print("\n".join(lacking), file=sys.stderr)
        return 2
    settings = _settings()
    about = report.machine() | {"rounds": settings.rounds, "seconds": settings.seconds, "full": settings.full}
    rows: list[Row] = []
    failed = False
    try:
        for row in _measure(settings):
            rows.append(row)
            print(f"{report.goal_line(row)}\n{report.detail(row)}", flush=True)
    except LoadFailed as error:
        print(f"error: {error}", file=sys.stderr)
        failed = True
    print(f"\n{report.markdown(rows, about)}\nsaved in {report.save(rows, about).relative_to(report.CHECKOUT)}\n")
    for row in rows:
        if row.met is not None:
            print(report.goal_line(row))
    print(report.last_line(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
