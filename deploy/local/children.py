"""Child processes that end with us and keep their output in one log file each."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import psutil

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
LOG_KEEP_BYTES = 20_000_000


class FailedToStart(Exception):
    """A part did not come up; the message names it and carries its last log lines."""


class Process(Protocol):
    """What a `subprocess.Popen` can be asked and told, and a process that was forked for us too."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """Its exit code as `poll` found it."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""

    def wait(self) -> int:
        """Its exit code, when it has ended."""

    def send_signal(self, sig: signal.Signals, /) -> None:
        """Signals it, where it still lives."""

    def kill(self) -> None:
        """Ends it at once."""


def last_lines(log: Path, since: int = 0, count: int = 15) -> str:
    """The end of a log, indented, from the byte `since` on; empty when there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - 65_536))
        lines = file.read().decode(errors="replace").splitlines()[-count:]
    return "".join(f"    {line}\n" for line in lines)


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    when_orphaned: signal.Signals = signal.SIGTERM,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, its output appended to `log`.

    On Linux the kernel sends it `when_orphaned` if this process dies, however it dies. Call it from the
    main thread: the kernel watches the thread that forked.
    """
    with log_file(log) as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
            preexec_fn=die_with(os.getpid(), when_orphaned) if sys.platform == "linux" else None,
        )


@contextlib.contextmanager
def log_file(log: Path) -> Iterator[BinaryIO]:
    """A process's log, open to be appended to; a long one is put aside before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_KEEP_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        yield output


def die_with(parent: int, sig: signal.Signals) -> Callable[[], None]:
    """What a process that ``parent`` has just forked does to get a signal from the kernel when that thread ends."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: no allocation after it

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(sig))
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask_kernel


def rename(name: str) -> None:
    """Has this process listed under a name of its own; the kernel keeps 15 letters of it."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def stop(process: subprocess.Popen[bytes], sig: signal.Signals = signal.SIGTERM, timeout_s: float = 20) -> None:
    """Ask a process to stop and wait; kill it when it does not within `timeout_s`."""
    if process.poll() is not None:
        return
    process.send_signal(sig)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def started(pid: int) -> float | None:
    """When the process with this id started, in seconds since the epoch; None when it does not run.

    With the id it names one process for good, though the system reuses ids.
    """
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def program(pid: int) -> str | None:
    """The name of the program a process runs; None when it does not run."""
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return None


def poll_until(ready: Callable[[], bool], timeout_s: float, interval_s: float = 0.02) -> bool:
    """Ask `ready` until it says yes; False when it has not after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True
