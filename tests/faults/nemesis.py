"""The nemesis: breaks a stand by a schedule that its seed decides.

`python -m tests.faults.nemesis --list` names the faults; `--try NAME` shows one on a stand of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.children import FailedToStart
from deploy.local.parts import SERVICES
from tests.faults import broker, proxy
from tests.faults.inject import Inject
from tests.faults.platform import Layout
from tests.faults.stand import Stand

# So many may hold at once: more, and nothing is ever done that could go wrong.
AT_ONCE: Final = 4
# What belongs to a group has so long to come back before the next of the group.
_RECOVERS_S: Final = 3.0


@dataclass(frozen=True)
class Strike:
    """One fault to come: when, what, on which part, for how long, and the number that decides the rest."""

    at_s: float
    kind: str
    target: str
    lasts_s: float
    seed: int


@dataclass(frozen=True)
class Act:
    """A fault at work: its stand, its strike, and how it waits."""

    stand: Stand
    strike: Strike
    wait: Callable[[float], object]

    @property
    def rng(self) -> random.Random:
        return random.Random(self.strike.seed)

    def last(self) -> None:
        """Lasts as long as the fault does."""
        self.wait(self.strike.lasts_s)


@dataclass(frozen=True)
class Fault:
    """A kind of fault. ``strike`` begins it, waits, and undoes it; ``targets`` are what it may hit.

    Of a ``group`` only one is at work at a time.
    """

    what: str
    strike: Callable[[Act], object]
    targets: Callable[[Layout], Iterable[str]]
    weight: float
    lasts_s: tuple[float, float] = (0.0, 0.0)
    long_only: bool = False
    group: str = ""
    settles_s: float = 0.0  # how long its effects go on; it strikes no later than that before the end


# ---- targets -----------------------------------------------------------------------------------------------


def _processes(layout: Layout) -> Iterable[str]:
    return layout.processes()


def _consuming(layout: Layout) -> Iterable[str]:
    return layout.consuming()


def _relaying(layout: Layout) -> Iterable[str]:
    return layout.relaying()


def _serving(layout: Layout) -> Iterable[str]:
    return [name for kind in SERVICES for name in layout.serving(kind)]


def _of(parts: Callable[[Layout], Iterable[str]], target: str) -> Callable[[Layout], Iterable[str]]:
    """The connections of some processes to a part."""
    return lambda layout: [f"{name}>{target}" for name in parts(layout)]


def _edges(layout: Layout) -> Iterable[str]:
    return (">".join(edge) for edge in layout.edges())


def _kinds(layout: Layout) -> Iterable[str]:
    return sorted(set(layout.processes().values()))


def _only(name: str) -> Callable[[Layout], Iterable[str]]:
    return lambda _: (name,)


# ---- processes ---------------------------------------------------------------------------------------------


def _kill(it: Act) -> None:
    it.stand.kill(it.strike.target)


def _pause(it: Act) -> None:
    with it.stand.paused(it.strike.target):
        it.last()


def _down(it: Act) -> None:
    with it.stand.down(it.strike.target):
        it.last()


def _kill_all(it: Act) -> None:
    for part in (*it.stand.layout.processes(), "nats", "postgres"):
        it.stand.kill(part)


def _restart(it: Act) -> None:
    """Every process of a kind, one after the other; of all kinds for "everything"."""
    for name, kind in it.stand.layout.processes().items():
        if it.strike.target in (kind, "everything"):
            with contextlib.suppress(FailedToStart):
                it.stand.restart(name)


# ---- connections -------------------------------------------------------------------------------------------


def _edge(mode: str, delay_ms: float = 0.0, jitter_ms: float = 0.0) -> Callable[[Act], object]:
    def strike(it: Act) -> None:
        it.stand.proxies.set([it.strike.target], mode, delay_ms=delay_ms, jitter_ms=jitter_ms)
        try:
            it.last()
        finally:
            it.stand.proxies.set([it.strike.target], proxy.PASS)

    return strike


def _swizzle(it: Act) -> None:
    """Some connections are cut one by one and come back one by one in another order (FoundationDB's)."""
    rng = it.rng
    edges = rng.sample(it.stand.edges, max(2, len(it.stand.edges) // 8))
    pause = it.strike.lasts_s / (2 * len(edges))
    try:
        for edge in edges:
            it.stand.proxies.set([edge], rng.choice((proxy.CUT, proxy.HOLE)))
            it.wait(pause)
        for edge in rng.sample(edges, len(edges)):
            it.stand.proxies.set([edge], proxy.PASS)
            it.wait(pause)
    finally:
        it.stand.proxies.set(edges, proxy.PASS)


# ---- inside a process --------------------------------------------------------------------------------------


def _inject(make: Callable[[random.Random], Inject]) -> Callable[[Act], object]:
    def strike(it: Act) -> None:
        it.stand.inject(it.strike.target, make(it.rng))
        try:
            it.last()
        finally:
            it.stand.inject(it.strike.target, Inject())

    return strike


def _jump(rng: random.Random) -> Inject:
    return Inject(clock_s=rng.choice((-3600.0, -61.0, 61.0, 3600.0)))


# ---- the broker --------------------------------------------------------------------------------------------


def _disk_full(it: Act) -> None:
    with it.stand.disk_full():
        it.last()


def _roll_back(it: Act) -> None:
    copy = it.stand.copy_store()
    it.last()
    broker.roll_back(it.stand, copy)


FAULTS: Final[dict[str, Fault]] = {
    "kill": Fault("SIGKILL a process of a service or the gateway", _kill, _processes, 6),
    "pause": Fault("SIGSTOP one for a few seconds", _pause, _processes, 5, (3, 8)),
    "kill-serving": Fault("SIGKILL one that serves a service", _kill, _serving, 1),
    "kill-consumer": Fault("SIGKILL one that handles events", _kill, _consuming, 1),
    "kill-relay": Fault("SIGKILL one that publishes", _kill, _relaying, 1),
    "pause-relay": Fault("SIGSTOP one that publishes, until another leads", _pause, _relaying, 1, (4, 7)),
    "kill-nats": Fault("SIGKILL NATS", _kill, _only("nats"), 2, group="nats"),
    "pause-nats": Fault("SIGSTOP NATS", _pause, _only("nats"), 1, (3, 8), group="nats"),
    "nats-down": Fault("NATS stays away", _down, _only("nats"), 1, (8, 12), group="nats"),
    "nats-down-long": Fault("NATS stays away for a minute", _down, _only("nats"), 0.5, (60, 60), True, "nats"),
    "kill-postgres": Fault("SIGKILL PostgreSQL, all its processes", _kill, _only("postgres"), 1.5, group="postgres"),
    "pause-postgres": Fault("SIGSTOP PostgreSQL", _pause, _only("postgres"), 1, (3, 6), group="postgres"),
    "kill-all": Fault("SIGKILL everything at once", _kill_all, _only("everything"), 0.3, long_only=True),
    "restart": Fault("SIGTERM each process of a kind in turn", _restart, _kinds, 1, group="restart"),
    "restart-all": Fault(
        "SIGTERM every process in turn", _restart, _only("everything"), 0.3, long_only=True, group="restart"
    ),
    "cut": Fault("connections reset and refused", _edge(proxy.CUT), _edges, 4, (1, 6)),
    "cut-consumer": Fault("a consumer loses its database", _edge(proxy.CUT), _of(_consuming, "postgres"), 1, (1, 4)),
    "cut-relay": Fault("a relay loses the broker", _edge(proxy.CUT), _of(_relaying, "nats"), 1, (0.5, 2)),
    "hole": Fault("a connection that swallows what is sent", _edge(proxy.HOLE), _edges, 4, (2, 8)),
    "delay": Fault("a slow connection", _edge(proxy.DELAY, 60, 40), _edges, 4, (4, 10)),
    "swizzle": Fault("an eighth of the connections cut and mended in turn", _swizzle, _only("edges"), 1, (6, 10)),
    "duplicate": Fault("deliveries come twice", _inject(lambda _: Inject(duplicate=0.5)), _consuming, 2, (5, 10)),
    "shuffle": Fault("deliveries come late and out of order", _inject(lambda _: Inject(late_s=2.0)), _consuming, 2,
                     (5, 10)),
    "slow": Fault("a consumer slower than its input", _inject(lambda _: Inject(slow_s=1.0)), _consuming, 1, (5, 15)),
    "clock": Fault("the clock jumps in one process", _inject(_jump), _processes, 2, (4, 8)),
    "replay": Fault("events published a second time", lambda it: broker.replay(it.stand, it.rng), _only("nats"), 1.5),
    "poison": Fault("events nobody can handle", lambda it: broker.poison(it.stand, it.rng), _only("nats"), 1.5),
    "poison-kill": Fault("an event that kills who handles it", lambda it: broker.poison(it.stand, it.rng, kill=True),
                         _only("nats"), 0.3, long_only=True, settles_s=360),
    "wipe": Fault("the broker's store is gone", lambda it: broker.wipe(it.stand), _only("nats"), 0.7, group="nats"),
    "roll-back": Fault("the broker's store of a while ago", _roll_back, _only("nats"), 0.7, (4, 8), group="nats"),
    "damage": Fault("a bit flipped or the end lost in each of the broker's files",
                    lambda it: broker.damage(it.stand, it.rng), _only("nats"), 0.5, group="nats"),
    "disk-full": Fault("no room for the broker", _disk_full, _only("nats"), 0.7, (3, 6), group="nats"),
}  # fmt: skip


def schedule(
    layout: Layout, seed: int, seconds: float, menu: Iterable[str] | None = None, *, every_s: float = 1.15
) -> list[Strike]:
    """The strikes of a run: the same for the same layout, seed, time and menu.

    The menu is everything by default, without what takes minutes where there are less than ten. All faults begin and
    end within ``seconds``, as far as they can.
    """
    names = list(menu) if menu is not None else _menu(seconds)
    rng = random.Random(seed)
    fresh = rng.sample(names, len(names))  # each once before any comes again
    strikes: list[Strike] = []
    busy: list[tuple[float, str]] = []  # what holds: until when, and its group
    at = 0.5
    while names and at < seconds - 1:
        busy = [each for each in busy if each[0] > at]
        groups = {group for _, group in busy if group}
        free = []
        for name in names:
            fault = FAULTS[name]
            lane = len(busy) < AT_ONCE or not fault.lasts_s[1]
            if lane and fault.group not in groups and at + fault.settles_s <= seconds:
                free.append(name)
        if free:
            name = next((each for each in fresh if each in free), "")
            if name:
                fresh.remove(name)
            else:
                name = rng.choices(free, [FAULTS[each].weight for each in free])[0]
            fault = FAULTS[name]
            lasts = min(rng.uniform(*fault.lasts_s), max(0.0, seconds - at))
            target = rng.choice(sorted(fault.targets(layout)))
            strikes.append(Strike(round(at, 2), name, target, round(lasts, 2), rng.getrandbits(32)))
            if lasts or fault.group:
                busy.append((at + lasts + (_RECOVERS_S if fault.group else 0.0), fault.group))
        at += rng.uniform(0.4, 1.6) * every_s
    return strikes


def _menu(seconds: float) -> list[str]:
    return [name for name, fault in FAULTS.items() if seconds >= 600 or not fault.long_only]


class Nemesis(threading.Thread):
    """Breaks a stand for so many seconds; ``join`` waits until all is over and each fault undone.

    ``menu`` names faults of FAULTS. Every strike is counted in ``stand.faults`` and written to its faults.jsonl.
    """

    def __init__(
        self, stand: Stand, seed: int, seconds: float, menu: Iterable[str] | None = None, *, every_s: float = 1.15
    ) -> None:
        super().__init__(name="nemesis", daemon=True)
        self.stand = stand
        self.strikes = schedule(stand.layout, seed, seconds, menu, every_s=every_s)
        self.problems: list[str] = []
        self._ending = threading.Event()

    def stop(self) -> None:
        """No more strikes; those that hold are undone at once."""
        self._ending.set()

    def run(self) -> None:
        began = time.monotonic()
        hands = []
        for strike in self.strikes:
            if self._ending.wait(max(0.0, began + strike.at_s - time.monotonic())):
                break
            if strike.kind == "disk-full" and not self.stand.can_fill_disk():
                continue
            hands.append(threading.Thread(target=self._strike, args=(strike,), daemon=True))
            hands[-1].start()
        for hand in hands:
            hand.join()

    def _strike(self, strike: Strike) -> None:
        self.stand.note(strike.kind, strike.target, lasts_s=strike.lasts_s, due_s=strike.at_s)
        try:
            FAULTS[strike.kind].strike(Act(self.stand, strike, self._ending.wait))
        except Exception as error:  # a fault that fails must not end the others; the run reports it
            self.problems.append(f"{strike.kind} {strike.target}: {type(error).__name__}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.nemesis", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the faults")
    parser.add_argument("--try", dest="names", nargs="+", choices=sorted(FAULTS), help="strike with these, then heal")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="to keep logs in; a temporary one by default")
    options = parser.parse_args()
    if not options.names:
        for name, fault in FAULTS.items():
            print(f"{name:<15} {fault.what}{' (long runs)' if fault.long_only else ''}")
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="rapport-faults-") as scratch,
        Stand(options.directory or Path(scratch), options.seed) as stand,
    ):
        return _try(stand, options.names, options.seed, options.seconds)


def _try(stand: Stand, names: list[str], seed: int, seconds: float) -> int:
    client = stand.running.tenant("Trial")
    for number in range(20):
        client.post("/v1/companies", {"display_name": f"Trial {number}"})
    nemesis = Nemesis(stand, seed, seconds, names)
    nemesis.start()
    nemesis.join()
    began = time.monotonic()
    stand.heal()
    print(f"{dict(stand.faults)} healed in {time.monotonic() - began:.1f} s", flush=True)
    print(f"{client.post('/v1/companies', {'display_name': 'After'})['id']} is written after it")
    letters = Counter(f"{each.service} {each.error}" for each in broker.dead_letters(stand))
    print(f"{len(stand.poisoned)} poisoned events, dead letters: {dict(letters)}")
    for problem in nemesis.problems:
        print(problem)
    return 1 if nemesis.problems else 0


if __name__ == "__main__":
    sys.exit(main())
