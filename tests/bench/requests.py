"""Requests of the two tables: gRPC on a service beside bare echoes, REST through the gateway, Envoy beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.bench import calls, rest
from tests.bench.echo import echo
from tests.bench.envoy import Envoy, NotHere, envoy
from tests.bench.goals import Row, Value, at_most, not_measured, within
from tests.bench.measure import Measured, interleaved
from tests.bench.records import Records
from tests.bench.settings import Settings
from tests.bench.stack import Stack

# What each row is made from: the cases that must be measured in the same rounds.
CASES = {
    "get": ("echo get", "get"),
    "list": ("echo list", "list"),
    "create": ("echo create", "create"),
    "gateway": ("get", "rest get"),
    "envoy": ("rest get", "envoy get"),
    "replicas": ("rest get", "rest get with two"),
    "rest get": ("rest get",),
    "rest page": ("rest page",),
    "rest search": ("rest search",),
    "rest create": ("rest create",),
    "rest move": ("rest move",),
    "rest deals": ("rest deals",),
}
ROWS = tuple(CASES)
# CPU milliseconds a request over all processes, and the best of three other systems for the same request; see
# docs/performance.md.
_REST_GOALS_MS = {"get": 1.0, "page": 2.8, "search": 1.4, "create": 2.7, "move": 2.3, "deals": 2.0}


def run(settings: Settings, one: Stack, records: Records, two: tuple[Stack, Records] | None) -> Iterator[Row]:
    """Measures what is wanted and yields its rows."""
    wanted = [row for row in ROWS if settings.wants(row)]
    needed = {case for row in wanted for case in CASES[row]}
    on_contacts = calls.Calls(one, records.client, records.people)
    with contextlib.ExitStack() as stack:
        floor = stack.enter_context(echo(on_contacts.replies()))
        cases = [*calls.cases(on_contacts, floor), *rest.cases(one, records)]
        beside: Envoy | None = None
        why = ""
        if "envoy" in wanted:
            try:
                beside = stack.enter_context(envoy(calls.SERVICE, one.addresses("contacts")[0]))
                cases.append(rest.through_envoy(beside, one, records))
            except NotHere as error:
                why = str(error)
        if two is not None:
            cases.append(rest.get("rest get with two", *two))
        found = interleaved([case for case in cases if case.name in needed], settings.rounds, settings.seconds)
    for row in wanted:
        if row == "envoy" and why:
            yield not_measured("envoy", why)
        elif failure := next((found[case].failure for case in CASES[row] if found[case].failure), ""):
            yield not_measured(row, failure, failed=True)
        else:
            yield _row(row, found)


def _row(name: str, found: dict[str, Measured]) -> Row:
    if name in ("get", "list", "create"):
        share = 0.55 if name == "get" else 0.40
        floor = found[f"echo {name}"]
        return within(
            f"{name} over gRPC", us(found[name], "service"), "µs", us(floor, "service"), 1 / share,
            note="service's CPU a request; floor: echo of the same messages", beside=_beside(found[name], "service"),
        )  # fmt: skip
    if name == "gateway":
        return within(
            "REST get: gateway by service", us(found["rest get"], "gateway"), "µs", us(found["get"], "service"), 1.4,
            note="gateway's CPU a request; floor: the service's gRPC get",
        )  # fmt: skip
    if name == "envoy":
        return within(
            "REST get: gateway by Envoy", us(found["rest get"], "gateway"), "µs", us(found["envoy get"], "gateway"), 1,
            note="gateway's CPU a request; floor: Envoy's transcoder before the same service",
        )  # fmt: skip
    if name == "replicas":
        return within(
            "two replicas by one", us(found["rest get with two"], "platform"), "µs", us(found["rest get"], "platform"),
            1.15, note="REST get, CPU a request of all processes",
        )  # fmt: skip
    kind = name.removeprefix("rest ")
    measured = found[name]
    return at_most(
        f"REST {rest.TITLES[kind]}", us(measured, "platform", 1e-3), "ms", _REST_GOALS_MS[kind],
        beside=_beside(measured, "platform"),
    )  # fmt: skip


def us(measured: Measured, group: str, scale: float = 1.0) -> Value:
    """CPU microseconds a request of a group of processes, over the rounds."""
    least, most = measured.spread_us(group)
    return Value(measured.median_us(group) * scale, least * scale, most * scale)


def _beside(measured: Measured, group: str) -> dict[str, float | str]:
    """The other groups' CPU, and what the client saw in the middle round."""
    shown: dict[str, float | str] = {
        f"{other} µs": round(measured.median_us(other)) for other in measured.cpu_us if other != group
    }
    middle = sorted(measured.loads, key=lambda load: load.rate)[len(measured.loads) // 2]
    return shown | {
        "rate/s": round(middle.rate),
        "p50 ms": round(middle.p50_ms, 1),
        "p99 ms": round(middle.p99_ms, 1),
    }
