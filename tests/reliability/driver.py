"""An open-loop load driver: requests start at their appointed times, whatever became of those before them.

A driver that waits for answers slows down together with what it measures and so hides overload. This one keeps its
rate, in a process of its own, over keep-alive HTTP connections and gRPC channels. ``drive`` runs a plan and gives
every request back: when it was due, how late it left, how long it took, its status and how often it was tried.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

CHECKOUT = Path(__file__).resolve().parents[2]
# Not statuses of HTTP: what the client itself saw.
TOO_LATE, CUT, REFUSED, NO_ROOM = 1, 2, 3, 4


@dataclass(frozen=True)
class Kind:
    """One kind of request: ``path`` of a URL or a gRPC method, ``body`` as JSON or a message's bytes in hex.

    A POST carries a new Idempotency-Key, and a gRPC message a new UUID in its field ``id_field`` where that is not 0.
    """

    name: str
    path: str
    key: str
    weight: float = 1.0
    verb: str = "GET"
    body: str = ""
    grpc: bool = False
    id_field: int = 0


@dataclass(frozen=True)
class Plan:
    """What to send: ``phases`` are rates (a second) with their lengths (s), drawn from ``kinds`` by weight.

    A client makes so many ``attempts`` inside the one deadline; ``pause_s`` lies between them, spread and longer each
    time; with 0 it does not back off.
    """

    url: str
    grpc: str
    kinds: Sequence[Kind]
    phases: Sequence[tuple[float, float]]
    seed: int
    attempts: int = 1
    pause_s: float = 0.1
    deadline_s: float = 2.0


@dataclass(frozen=True)
class Shot:
    """One request: times in seconds, ``due`` since the start. ``answer_s`` is what its last attempt took."""

    kind: str
    due: float
    late_s: float
    took_s: float
    answer_s: float
    status: int
    attempts: int
    hinted: bool

    @property
    def ok(self) -> bool:
        """Whether the client got what it asked for in time."""
        return self.status == 200


@dataclass
class Shots:
    """What a run gave."""

    shots: list[Shot] = field(default_factory=list)

    def between(self, start_s: float, end_s: float) -> Shots:
        """Those that were due in this time."""
        return Shots([shot for shot in self.shots if start_s <= shot.due < end_s])

    def of(self, *kinds: str) -> Shots:
        """Those of these kinds."""
        return Shots([shot for shot in self.shots if shot.kind in kinds])

    def failed(self) -> list[Shot]:
        """Those that did not end well."""
        return [shot for shot in self.shots if not shot.ok]

    def good(self) -> list[Shot]:
        """Those that ended well, in time."""
        return [shot for shot in self.shots if shot.ok]

    def by_status(self) -> dict[int, int]:
        """How many had each status."""
        counts: dict[int, int] = {}
        for shot in self.shots:
            counts[shot.status] = counts.get(shot.status, 0) + 1
        return dict(sorted(counts.items()))


def quantile_ms(seconds: Iterable[float], q: float) -> float:
    """A quantile in milliseconds, by the nearest rank; 0 of nothing."""
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1) if ordered else 0.0


class Drive:
    """A driver's process. Leave the ``with`` block only after ``result``, or it is ended."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.sender"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        self._process.stdin.flush()

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """The driver's process."""
        return self._process.pid

    def stop(self) -> None:
        """Sends no more, whatever the plan says."""
        assert self._process.stdin
        self._process.stdin.close()

    def result(self) -> Shots:
        """Waits for the end of the plan."""
        assert self._process.stdout
        told = self._process.stdout.read()
        assert self._process.wait() == 0, f"the driver ended with {self._process.returncode}"
        rows = msgspec.msgpack.decode(told)
        return Shots([Shot(*row) for row in rows])


def drive(plan: Plan) -> Shots:
    """Runs a plan to its end."""
    with Drive(plan) as running:
        return running.result()


def at_once(plan: Plan, requests: int = 400) -> float:
    """About how many requests a second the platform gets through now, from a burst that asks until it is answered."""
    burst = replace(plan, phases=[(2_000, requests / 2_000)], deadline_s=60, attempts=1_000, pause_s=0.02)
    shots = drive(burst).good()
    return len(shots) / max((shot.due + shot.took_s for shot in shots), default=1.0)
