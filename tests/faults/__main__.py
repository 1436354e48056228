"""``python -m tests.faults``: breaks the real platform under load and checks that nothing is lost or done twice."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.bugs import BUGS
from tests.faults.checks import SHOWN, Findings, check
from tests.faults.history import History
from tests.faults.nemesis import Nemesis
from tests.faults.stand import Stand
from tests.faults.workload import WEIGHTS, Workload

CHECKOUT: Final = Path(__file__).resolve().parents[2]
REPORT: Final = CHECKOUT / "reports" / "faults.jsonl"
SHORT_S: Final = 60.0
FULL_S: Final = 1_800.0
BUG_S: Final = 30.0
# The load goes on for so long after all is healed.
_AFTER_S: Final = 2.0
# What an operator does in order; a client must not notice.
_GENTLE: Final = frozenset({"restart", "restart-all"})


@dataclass
class Run:
    """What one run did and found."""

    seed: int
    revision: str
    seconds: float
    bug: str
    operations: dict[str, dict[str, int]]
    acknowledged: int
    faults: dict[str, int]
    healed_s: float
    checked_s: float
    republished: int
    problems: list[str]
    findings: Findings = field(repr=False)

    @property
    def good(self) -> bool:
        """Whether every invariant held."""
        return not any(self.findings.broken())

    def row(self) -> dict[str, Any]:
        """As the report keeps it: findings as numbers."""
        row = {**asdict(self), "good": self.good}
        row["findings"] = {name: len(examples) for name, examples in self.findings.broken()}
        return row


def run(seed: int, seconds: float, directory: Path, *, bug: str = "", replicas: int = 2) -> Run:
    """Brings a stand up in ``directory``, loads and breaks it for so long, heals it, and checks everything."""
    planted = BUGS[bug] if bug else None
    menu = planted.menu or None if planted else None
    weights = {name: weight * (6 if planted and name in planted.workload else 1) for name, weight in WEIGHTS.items()}
    with Stand(directory, seed, bug=bug or None, replicas=replicas) as stand:
        say(f"up; seed {seed}, {seconds:.0f} s")
        history = History(directory / "history.jsonl")
        workload = Workload(stand, seed, history, weights=weights)
        nemesis = Nemesis(stand, seed, seconds, menu)
        workload.start()
        nemesis.start()
        while nemesis.is_alive() and not workload.broken:
            nemesis.join(0.5)
        nemesis.stop()
        nemesis.join()
        healed = _timed(stand.heal)
        time.sleep(_AFTER_S)
        workload.stop()
        say(f"{history.acknowledged} operations acknowledged, {sum(stand.faults.values())} faults; checking")
        began = time.monotonic()
        findings = check(stand, history, gentle=bool(menu) and set(menu or ()) <= _GENTLE)
        return Run(
            seed=seed,
            revision=revision(),
            seconds=seconds,
            bug=bug,
            operations=_by_kind(history.counts),
            acknowledged=history.acknowledged,
            faults=dict(sorted(stand.faults.items())),
            healed_s=round(healed, 1),
            checked_s=round(time.monotonic() - began, 1),
            republished=findings.republished,
            problems=nemesis.problems,
            findings=findings,
        )


def _timed(what: Any) -> float:
    began = time.monotonic()
    what()
    return time.monotonic() - began


def _by_kind(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for (kind, outcome), count in sorted(counts.items()):
        kinds.setdefault(kind, {})[outcome] = count
    return kinds


def revision() -> str:
    """The commit that runs, with a plus where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


@contextmanager
def place(keep: Path | None) -> Iterator[Path]:
    """A directory for a run; one of ours is deleted, unless the run ends by an exception or is kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="rapport-faults-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def tell(done: Run) -> None:
    """Prints what a run did and found."""
    say(f"revision {done.revision}, seed {done.seed}, {done.seconds:.0f} s of faults")
    say(f"{'operation':<16}{'ok':>9}{'refused':>9}{'unknown':>9}")
    for kind, outcomes in done.operations.items():
        say(f"{kind:<16}{outcomes.get('ok', 0):>9}{outcomes.get('fail', 0):>9}{outcomes.get('info', 0):>9}")
    say("faults: " + (", ".join(f"{kind} {count}" for kind, count in done.faults.items()) or "none"))
    say(f"healed in {done.healed_s} s, checked in {done.checked_s} s, {done.republished} events published again")
    for problem in done.problems:
        say(f"a fault that failed: {problem}")
    for name, examples in done.findings.broken():
        say(f"BROKEN {name}: {len(examples)}")
        for example in examples[:SHOWN]:
            say(f"  {example}")


def keep_record(done: Run) -> None:
    """Adds a run to the report, from which totals over all runs can be summed."""
    REPORT.parent.mkdir(exist_ok=True)
    with REPORT.open("a") as report:
        report.write(json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **done.row()}) + "\n")


def try_bug(name: str, seed: int, seconds: float) -> bool:
    """Runs with a planted bug; whether it was caught."""
    with place(None) as directory:
        done = run(seed, seconds, directory, bug=name)
    keep_record(done)
    caught = [what for what, _ in done.findings.broken()]
    if not caught:
        tell(done)
    say(f"bug {name}: " + (f"caught by {', '.join(caught)}" if caught else "NOT CAUGHT"))
    for _, examples in done.findings.broken():
        say(f"  {examples[0]}")
    return bool(caught)


def main() -> int:
    """Parses the command line and runs; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"{FULL_S / 60:.0f} minutes instead of one")
    parser.add_argument("--seconds", type=float, help="how long faults are injected")
    parser.add_argument("--seed", type=int, help="repeats a run's workload and faults")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant one bug; success is to catch it")
    parser.add_argument("--bugs", action="store_true", help="plant each bug in turn")
    parser.add_argument("--replicas", type=int, default=2, help="processes of each kind")
    parser.add_argument("--keep", type=Path, help="a directory for history, faults and logs, kept afterwards")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    if options.bug or options.bugs:
        names = sorted(BUGS) if options.bugs else [options.bug]
        caught = [try_bug(name, seed, options.seconds or BUG_S) for name in names]
        if options.bugs:
            say(f"bugs: caught {sum(caught)} of {len(caught)}")
        return 0 if all(caught) else 1
    with place(options.keep) as directory:
        seconds = options.seconds or (FULL_S if options.full else SHORT_S)
        done = run(seed, seconds, directory, replicas=options.replicas)
        tell(done)
        keep_record(done)
        if not done.good and options.keep is None:
            kept = Path(tempfile.mkdtemp(prefix="rapport-faults-kept-"))
            shutil.copytree(directory, kept, dirs_exist_ok=True)
            say(f"history, faults and logs: {kept}")
    lost, doubled = len(done.findings.lost), len(done.findings.doubled)
    say(f"faults: {done.acknowledged} operations, {sum(done.faults.values())} faults, {lost} lost, {doubled} doubled")
    return 0 if done.good else 1


if __name__ == "__main__":
    sys.exit(main())
