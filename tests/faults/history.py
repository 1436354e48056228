"""What the clients did, written down outside the platform while it is broken: every invocation and what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID


@dataclass(slots=True)
class Op:
    """An operation. ``outcome`` is ok, fail (refused: it did nothing) or info (nobody knows)."""

    number: int
    kind: str
    tenant: int
    client: int
    at: float
    # Of writes: the id of the request, a text that nobody else writes, and how many ledger rows it makes.
    request_id: str = ""
    value: str = ""
    rows: int = 0
    # What it writes to, or what came of it.
    entity: str = ""
    outcome: str = "info"
    revision: int = 0
    why: str = ""
    took_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)


class History:
    """A file of JSON lines that is only added to: an invocation before a request leaves, its outcome when it is known.

    What has no outcome, because the run ended first, counts as info.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[tuple[str, str]] = Counter()
        self._kinds: dict[int, tuple[str, float]] = {}
        self._file = path.open("w", buffering=1 << 16)
        self._last = 0
        # The tenants, by the number that operations know them by, and the text that stands in each one's records.
        self.tenants: list[tuple[UUID, str]] = []

    def tenant(self, tenant: UUID, canary: str) -> None:
        """Writes down the next tenant."""
        self.tenants.append((tenant, canary))
        self._write(f="tenant", tenant=str(tenant), canary=canary)

    def invoke(self, kind: str, tenant: int, client: int, **more: Any) -> int:
        """Writes that an operation begins; the answer is its number. ``more`` are fields of `Op`."""
        self._last += 1
        now = time.monotonic()
        self._kinds[self._last] = kind, now
        self._write(op=self._last, f="invoke", t=round(now, 4), kind=kind, tenant=tenant, client=client, **more)
        return self._last

    def ok(self, op: int, *, id: str = "", revision: int = 0, **more: Any) -> None:
        """The answer came: this record, at this revision."""
        self._end(op, "ok", id=id, revision=revision, **more)

    def fail(self, op: int, why: str, **more: Any) -> None:
        """It was refused, and so did nothing."""
        self._end(op, "fail", why=why, **more)

    def info(self, op: int, why: str, **more: Any) -> None:
        """Nobody knows whether it was done."""
        self._end(op, "info", why=why, **more)

    def _end(self, op: int, outcome: str, **more: Any) -> None:
        kind, began = self._kinds.pop(op)
        self.counts[kind, outcome] += 1
        now = time.monotonic()
        self._write(op=op, f=outcome, t=round(now, 4), took=round(now - began, 4), **more)

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    @property
    def acknowledged(self) -> int:
        """How many operations were answered well."""
        return sum(count for (_, outcome), count in self.counts.items() if outcome == "ok")

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()


def read(path: Path) -> list[Op]:
    """The operations of a history, in the order in which they were invoked."""
    ops: dict[int, Op] = {}
    for line in _lines(path):
        if (what := line.pop("f")) == "tenant":
            continue
        number = line.pop("op")
        at = line.pop("t")
        if what == "invoke":
            ops[number] = Op(number=number, at=at, **line)
            continue
        op = ops[number]
        op.outcome, op.took_s = what, line.pop("took")
        op.entity = line.pop("id", "") or op.entity
        op.revision, op.why = line.pop("revision", 0), line.pop("why", "")
        op.more |= line
    return list(ops.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)
