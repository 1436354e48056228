"""Faults inside a process of the platform, switched by a file: deliveries that come twice, late or out of order,
handlers that are slow, events that kill, and a clock that jumps.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from uuid import UUID

from chassis import ids
from chassis.events.consume import Consumer

# Who is said to have made an event that no reaction survives.
KILLS: Final = "faults:kills"
CRASHES: Final = "faults:crashes"
_LOOK_S: Final = 0.2


@dataclass
class Inject:
    """What is wrong with a process now. Times are seconds."""

    duplicate: float = 0.0  # the share of deliveries that come twice
    late_s: float = 0.0  # deliveries come up to so much later, each by its own time, so out of order
    slow_s: float = 0.0  # each transaction of a consumer takes so much longer
    clock_s: float = 0.0  # the wall clock is so far ahead

    def write(self, path: Path) -> None:
        """Tells the process of this file; it obeys within half a second."""
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self)))
        scratch.replace(path)


now = Inject()


def install(path: Path) -> None:
    """Puts this process in the hands of the file at ``path``, which need not exist."""
    _wrap_deliveries()
    _wrap_handlers()
    _wrap_clock()
    threading.Thread(target=_follow, args=(path,), daemon=True, name="inject").start()


def _follow(path: Path) -> None:
    seen = 0
    while True:
        try:
            changed = path.stat().st_mtime_ns
            if changed != seen:
                vars(now).update(json.loads(path.read_text()))
                seen = changed
        except FileNotFoundError:
            vars(now).update(asdict(Inject()))
        time.sleep(_LOOK_S)


def _wrap_deliveries() -> None:
    take = Consumer._take

    def _take(self: Consumer, message: Any) -> None:
        for _ in range(2 if random.random() < now.duplicate else 1):
            if now.late_s:
                asyncio.get_running_loop().call_later(random.uniform(0, now.late_s), take, self, message)
            else:
                take(self, message)

    Consumer._take = _take  # type: ignore[method-assign]


def _wrap_handlers() -> None:
    apply = Consumer._apply

    async def _apply(self: Consumer, changes: Any) -> None:
        if now.slow_s:
            await asyncio.sleep(now.slow_s)
        actors = {change.message.actor for change in changes}
        if KILLS in actors:
            os.kill(os.getpid(), signal.SIGKILL)
        if CRASHES in actors:
            raise RuntimeError("a reaction cannot handle this")
        await apply(self, changes)

    Consumer._apply = _apply  # type: ignore[method-assign]


class _Clock(ModuleType):
    """The module `time` with another wall clock."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return time.time() + now.clock_s

    def time_ns(self) -> int:
        return time.time_ns() + int(now.clock_s * 1e9)


def _wrap_clock() -> None:
    """Only for our own code and for tokens: the drivers would take a jump for a deadline that has passed, which the
    system's clock does not do to them."""
    clock = _Clock("time")
    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] in ("chassis", "services", "gateway", "joserfc")
        if ours and getattr(module, "time", None) is time:
            module.time = clock  # type: ignore[attr-defined]
    made = vars(ids)["uuid7"]

    def uuid7() -> UUID:
        uuid = made().int  # the first 48 bits are milliseconds (RFC 9562, section 5.7)
        return UUID(int=((uuid >> 80) + int(now.clock_s * 1000) << 80) | uuid & ((1 << 80) - 1))

    vars(ids)["uuid7"] = uuid7
