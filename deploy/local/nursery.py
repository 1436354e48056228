"""Python processes born from one that has imported what they share (docs/decisions/0020-forked-on-one-machine.md).

`Nursery` is the supervisor's side. The process behind it, ``python -m deploy.local.nursery``, imports once, and then
forks a new process for each order it gets. On Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import children

CHECKOUT = Path(__file__).resolve().parents[2]
AVAILABLE = sys.platform == "linux"

# What every service imports, and what tracing does when it is set up. Nothing here may start a thread or use gRPC.
_SHARED = ("chassis.run", "google.protobuf.struct_pb2", "requests")
PYTHON = (sys.executable, "-m")
# An order carries a whole environment.
_MESSAGE_BYTES, _MOST_FILES = 1 << 20, 8
# Above every file that a process of ours opens by itself before it begins.
_SPARE_FILE = 100


class Born:
    """A process that was forked for us. It is asked and told things like a `subprocess.Popen`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.returncode: int | None = None
        # Nothing where the nursery has ended meanwhile: then so has this process, as `poll` will find.
        self.pid = int(channel.recv(_MESSAGE_BYTES) or 0)
        channel.setblocking(False)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                # Without a word the nursery has ended, and the kernel with it all that it forked.
                self.returncode = int(self._channel.recv(_MESSAGE_BYTES) or -signal.SIGKILL)
                self._channel.close()
        return self.returncode

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        while (code := self.poll()) is None:
            select.select([self._channel], [], [])
        return code

    def send_signal(self, sig: signal.Signals) -> None:
        """Signals it, where it still lives."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Forks Python processes. It is started with the first, and anew where it has ended or its sources have changed."""

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        self._log = log
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._began = 0.0

    def start(self) -> socket.socket:
        """Where orders go. Call it from the main thread: see `children.spawn`."""
        if self._orders is None or self._process is None or self._process.poll() is not None or self._stale():
            if self._orders is not None:
                self._orders.close()  # an earlier one ends with the last process that it forked
            self._began = time.time()
            self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                command = [*PYTHON, __name__, str(theirs.fileno())]
                self._process = children.spawn(
                    command, self._log, env=self._env, cwd=CHECKOUT, pass_fds=(theirs.fileno(),),
                    when_orphaned=signal.SIGKILL,
                )  # fmt: skip
        return self._orders

    def _stale(self) -> bool:
        """Whether somebody has worked on what was imported."""
        sources = (path for folder in ("chassis", "gen") for path in (CHECKOUT / folder).rglob("*"))
        return any(path.suffix in (".py", ".binpb") and path.stat().st_mtime > self._began for path in sources)

    async def bear(
        self, command: Sequence[str], log: Path, *, env: Mapping[str, str], pass_fds: Sequence[int] = (),
        when_orphaned: signal.Signals = signal.SIGTERM,
    ) -> Born:  # fmt: skip
        """Like `children.spawn` of ``command``, which is of Python with -m; it runs in the checkout."""
        orders = self.start()
        order = {"name": log.stem, "words": command[len(PYTHON):], "env": dict(env), "files": list(pass_fds),
                 "when_orphaned": int(when_orphaned)}  # fmt: skip
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, children.log_file(log) as output, contextlib.suppress(BrokenPipeError):
            socket.send_fds(orders, [json.dumps(order).encode()], [theirs.fileno(), output.fileno(), *pass_fds])
        return await asyncio.to_thread(Born, ours)

    def end(self) -> None:
        """Ends the process behind it, and so what it forked."""
        if self._process is not None and self._orders is not None:
            self._orders.close()
            self._orders = None
            self._process.kill()
            self._process.wait()


def forked(command: Sequence[str | Path]) -> bool:
    """Whether a command is one that a nursery can carry out."""
    return AVAILABLE and tuple(command[: len(PYTHON)]) == PYTHON


@dataclass
class _Order:
    """What a forked process is to become; ``received`` are the files for it, its log first."""

    said: dict[str, Any]
    received: list[int]
    parent: int

    def become(self) -> None:
        """Does what `children.spawn` would have done between fork and exec."""
        os.setsid()
        children.die_with(self.parent, signal.Signals(self.said["when_orphaned"]))()
        children.rename(self.said["name"])
        files = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _SPARE_FILE) for file in self.received]
        for file in self.received:
            os.close(file)
        log, *others = files
        for file, number in ((log, 1), (log, 2), *zip(others, self.said["files"], strict=True)):
            os.dup2(file, number)
        for file in files:
            os.close(file)
        os.environ.clear()
        os.environ.update(self.said["env"])

    def carry_out(self) -> None:
        """Runs the module, as Python would with -m."""
        module, *arguments = self.said["words"]
        sys.argv[:] = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _take_orders(orders: socket.socket) -> _Order | None:
    """Forks for each order. Returns it in the forked process; None in this one when there are no more of either."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: dict[int, socket.socket] = {}
    asked, parent = True, os.getpid()
    while asked or living:
        ready, _, _ = select.select([woken, *([orders] if asked else [])], [], [])
        if woken in ready:
            woken.recv(_MESSAGE_BYTES)
            _tell_ends(living)
        if orders not in ready:
            continue
        said, files, _, _ = socket.recv_fds(orders, _MESSAGE_BYTES, _MOST_FILES)
        asked = bool(said)
        if not asked:
            continue
        channel = socket.socket(fileno=files.pop(0))
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (orders, woken, wake, channel, *living.values()):
                each.close()
            return _Order(json.loads(said), files, parent)
        for file in files:
            os.close(file)
        living[pid] = channel
        channel.send(str(pid).encode())
    return None


def _tell_ends(living: dict[int, socket.socket]) -> None:
    """Tells the exit codes of those that have ended."""
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with living.pop(pid) as channel, contextlib.suppress(OSError):
            channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    """Imports, takes orders, and in a forked process becomes what was ordered."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()  # a collection would write to every object, and so to every page that is to be shared
    # What cannot be imported is told by the process that needs it.
    with contextlib.suppress(Exception):
        for name in _SHARED:
            importlib.import_module(name)
        importlib.import_module("chassis.contract").load()
    gc.freeze()
    order = _take_orders(orders)
    gc.enable()
    if order is not None:
        order.become()
        order.carry_out()


if __name__ == "__main__":
    main()
