"""``make bench``: measures the platform against floors of the same run and says which goals are met.

Exit code 0 also where goals are short, for this measures; 1 where something could not be measured, 2 where a load
generator is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator

from tests.bench import bulk, events, idle, information, records, report, requests, scale, soak
from tests.bench.goals import Row
from tests.bench.load import missing
from tests.bench.records import Records
from tests.bench.settings import Settings
from tests.bench.stack import Stack, stack

_ROWS = (*idle.ROWS, *requests.ROWS, *events.ROWS, *bulk.ROWS, *information.ROWS, *scale.ROWS)


def _settings(arguments: list[str] | None = None) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="longer rounds, more records: about half an hour")
    parser.add_argument("--only", default="", help=f"rows with commas between: {', '.join(_ROWS)}")
    parser.add_argument("--seconds", type=float, help="length of a round")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    parser.add_argument(
        "--people", type=int, default=0, help="in the large tenant, up to 10000000; needs 40 GB of disk"
    )
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="memory under moderate load instead")
    parser.add_argument(
        "--real-time", action="store_true", help="events: run the platform before all else on a busy machine (root)"
    )
    given = parser.parse_args(arguments)
    only = frozenset(name.strip() for name in given.only.split(",") if name.strip())
    if unknown := only - set(_ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(_ROWS)}")
    return Settings(
        full=given.full,
        only=only,
        seconds=given.seconds or (10.0 if given.full else 0.7),
        rounds=given.rounds or (5 if given.full else 3),
        people=given.people,
        soak_minutes=given.soak,
        real_time=given.real_time,
    )


def _measure(settings: Settings) -> Iterator[Row]:
    """Starts what is needed, measures group by group, and takes everything down."""
    with contextlib.ExitStack() as running:
        _say("starting a platform")
        one = running.enter_context(stack())
        if settings.soak_minutes:
            yield from soak.run(one, settings.soak_minutes)
            return
        yield from idle.run(settings, one)
        if settings.wants_any(*bulk.ROWS):
            _say("importing")
            yield from bulk.run(settings, one)
        if settings.wants_any(*requests.ROWS, *events.ROWS, *information.ROWS, *scale.ROWS, "loaded memory"):
            _say("filling a tenant")
            found = records.fill(one)
            two = _two(running) if settings.wants_any("replicas", "events with two") else None
            _say("measuring requests")
            yield from requests.run(settings, one, found, two)
            yield from idle.after_load(settings, one)
            yield from information.run(settings, one, found)
            _say("measuring events")
            yield from events.run(settings, one, found, two)
            if settings.wants_any(*scale.ROWS):
                _say("comparing a small with a large tenant")
                yield from scale.run(settings, one, found)


def _two(running: contextlib.ExitStack) -> tuple[Stack, Records]:
    _say("starting a platform with two of each process")
    other = running.enter_context(stack(replicas=2))
    return other, records.fill(other, rows=1_000)


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Measures, prints and saves. Returns the exit code."""
    if lacking := missing():
        print("\n".join(lacking), file=sys.stderr)
        return 2
    # So that a run that is told to end takes its platforms down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = _settings()
    about = report.machine() | {"rounds": settings.rounds, "seconds": settings.seconds, "full": settings.full}
    rows: list[Row] = []
    broken = False
    try:
        for row in _measure(settings):
            rows.append(row)
            print(f"{report.goal_line(row)}\n{report.detail(row)}", flush=True)
    except Exception:
        # What was measured until now is shown all the same.
        traceback.print_exc()
        broken = True
    print(f"\n{report.markdown(rows, about)}\nsaved in {report.save(rows, about).relative_to(report.CHECKOUT)}\n")
    for row in rows:
        if row.met is not None:
            print(report.goal_line(row))
    print(report.last_line(rows))
    return 1 if broken or any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
