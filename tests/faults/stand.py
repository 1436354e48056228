"""The platform under test, and the hands that break and heal it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import psutil

from deploy.local import children, control, ports
from deploy.local.state import State
from tests.faults import platform, proxy
from tests.faults.bugs import BUGS
from tests.faults.inject import Inject
from tests.faults.platform import BUG, SPLIT, WALLS, Layout
from tests.faults.seals import EVERY_S
from tests.running import Running

HEAL_LIMIT_S: Final = 90.0
# A file system that is full for NATS still has so much room: less than any message.
_ROOM_WHEN_FULL: Final = 64 * 1024


class Stand:
    """The real platform, its roles as processes of their own, its parts joined through proxies that can be cut.

    Entered it is up and healthy; left, everything has ended and is deleted. ``bug`` plants one of bugs.BUGS. The
    methods that break something may be called from any thread; ``heal`` undoes all of them.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        *,
        bug: str | None = None,
        split_roles: bool | str = True,
        replicas: int = 2,
    ) -> None:
        self.directory = directory.resolve()
        self.seed = seed
        self.bug = bug
        if isinstance(split_roles, bool):
            split_roles = "some" if split_roles else "none"
        self.layout = Layout(split_roles, replicas)
        self.state = State(self.directory / "state")
        self.env: dict[str, str] = {}
        self.faults: Counter[str] = Counter()
        self.began = time.monotonic()
        self.poisoned: list[dict[str, Any]] = []
        self._log_lock = threading.Lock()
        self._copies = 0

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        walls = BUGS[self.bug].walls if self.bug else ""
        settings = {SPLIT: self.layout.split, BUG: self.bug or "", WALLS: walls, "RAPPORT_SEAL_EVERY_S": str(EVERY_S)}
        try:
            self.env = control.up(
                self.state.root, replicas=self.layout.replicas, env=settings, module=platform.MODULE, timeout_s=300
            )
        except BaseException:
            self._end()
            raise
        self.running = Running(self.state, self.env)
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake_all()
        self._end()

    def _end(self) -> None:
        logs = self.state.root / "logs"
        if logs.exists():
            shutil.copytree(logs, self.directory / "logs", dirs_exist_ok=True)
        control.reset(self.state)

    # ---- the record ----------------------------------------------------------------------------------------

    def note(self, kind: str, target: str, **more: Any) -> None:
        """Counts a fault and writes it down, with the seconds since the stand was up."""
        line = {"at": round(time.monotonic() - self.began, 3), "kind": kind, "target": target, **more}
        with self._log_lock:
            self.faults[kind] += 1
            with (self.directory / "faults.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")

    # ---- processes -----------------------------------------------------------------------------------------

    def signal(self, part: str, number: signal.Signals) -> bool:
        """Sends a signal to a part and to all that it started; False when it does not run now."""
        entry = self.state.processes().get(part)
        if entry is None:
            return False
        found = _family(entry["pid"], freeze=number is signal.SIGKILL)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return bool(found)

    def kill(self, part: str) -> bool:
        """Ends a part as a crash would; the supervisor starts it again."""
        return self.signal(part, signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self, part: str) -> Iterator[bool]:
        """A part that does nothing, while its connections stay open."""
        entry = self.state.processes().get(part)
        found = _family(entry["pid"]) if entry else []
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield bool(found)
        finally:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextlib.contextmanager
    def down(self, part: str) -> Iterator[None]:
        """A part that ends as by a crash and stays away."""
        self.state.hold(part).touch()
        try:
            self.kill(part)
            yield
        finally:
            self.state.hold(part).unlink(missing_ok=True)

    def restart(self, part: str) -> None:
        """Ends a part as an operator does, and waits for its successor."""
        with contextlib.suppress(control.NotRunning):
            control.restart(self.state, part)

    def _wake_all(self) -> None:
        for name, entry in self.state.processes().items():
            if name != "supervisor":
                for process in _family(entry["pid"]):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()

    # ---- connections ---------------------------------------------------------------------------------------

    @property
    def edges(self) -> list[str]:
        """Every pair of parts that speak: "sales-1>postgres"."""
        return [">".join(edge) for edge in self.layout.edges()]

    @property
    def proxies(self) -> proxy.Control:
        """Breaks and mends connections."""
        return proxy.Control(json.loads((self.state.root / "proxies.json").read_text())["control"])

    # ---- inside a process ----------------------------------------------------------------------------------

    def inject(self, process: str, what: Inject) -> None:
        """Has a process do wrong what ``what`` says, and nothing else."""
        what.write(self.state.root / "inject" / process)

    # ---- the broker's store --------------------------------------------------------------------------------

    def copy_store(self) -> Path:
        """A copy of the broker's files as they are on disk now, torn where it is writing."""
        self._copies += 1
        target = self.directory / "copies" / str(self._copies)
        for attempt in range(5):
            with contextlib.suppress(shutil.Error, FileNotFoundError):  # files come and go meanwhile
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(platform.store(self.state), target)
                return target
            time.sleep(0.05 * (attempt + 1))
        raise RuntimeError("the broker's store does not hold still")

    @contextlib.contextmanager
    def store_of_stopped_broker(self) -> Iterator[Path]:
        """The broker's files while it is down; it starts from what they are then."""
        with self.down("nats"):
            children.poll_until(lambda: "nats" not in self.state.processes(), 20)
            yield platform.store(self.state)

    def can_fill_disk(self) -> bool:
        """Whether the broker has a file system of its own here."""
        return bool(platform.namespace())

    @contextlib.contextmanager
    def disk_full(self) -> Iterator[None]:
        """No room for the broker; at the end there is again, and it is started anew, as its supervisor would."""
        mount = self.state.root / "nats" / "jetstream"
        try:
            self._leave_no_room(mount)
            yield
        finally:
            self.proxies.resize(mount, platform.STORE_BYTES)
            self.kill("nats")

    def _leave_no_room(self, mount: Path) -> None:
        """Shrinks the file system to what it holds. The broker writes meanwhile, and less than it holds is refused."""
        for room in range(1, 9):
            used = shutil.disk_usage(platform.store(self.state)).used
            try:
                return self.proxies.resize(mount, used + room * _ROOM_WHEN_FULL)
            except OSError:
                if room == 8:
                    raise

    # ---- healing -------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Undoes everything and waits until all parts are ready. Raises FailedToStart naming those that are not."""
        for injected in (self.state.root / "inject").glob("*"):
            injected.unlink(missing_ok=True)
        for marker in (self.state.root / "hold").iterdir():
            marker.unlink(missing_ok=True)
        self._wake_all()
        self.proxies.set(self.edges, proxy.PASS)
        if self.can_fill_disk():
            self.proxies.resize(self.state.root / "nats" / "jetstream", platform.STORE_BYTES)
        limit = time.monotonic() + HEAL_LIMIT_S
        control.wait_ready(self.state, HEAL_LIMIT_S)
        if not children.poll_until(lambda: not self.unready(), max(0.0, limit - time.monotonic()), 0.1):
            raise children.FailedToStart(f"not healed: {self.unready()}")

    def unready(self) -> dict[str, str]:
        """Parts that do not answer or say that something is wrong, with what they say."""
        found = self.state.processes()
        missing = {name: "does not run" for name in self.layout.processes() if name not in found}
        for name, entry in found.items():
            if entry.get("probe_port"):
                status, text = ports.get(entry["probe_port"], "/readyz", timeout_s=2)
                if status != 200:
                    missing[name] = text
        return missing


def _family(pid: int, *, freeze: bool = False) -> list[psutil.Process]:
    """A process and all that descend from it: PostgreSQL's own are no group. Frozen first, none is missed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        if freeze:
            parent.suspend()
        return [parent, *parent.children(recursive=True)]
    return []
