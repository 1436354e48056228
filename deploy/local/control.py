"""What other processes ask of a stack: wait, stop, end or hold a part, wipe NATS, look at it.

There is no control channel: the supervisor reacts to its processes' ends and to files in its state directory.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.local import children, postgres
from deploy.local.parts import CHECKOUT
from deploy.local.state import State

DOWN_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 60.0


class NotRunning(Exception):
    """Nothing of that name runs in this state directory."""


@contextlib.contextmanager
def only_supervisor(state: State) -> Iterator[None]:
    """Hold the state directory's lock. Raises FailedToStart when another supervisor has it."""
    with (state.root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise children.FailedToStart(f"Rapport already runs in {state.root}: `make down` stops it") from None
        yield


def is_up(state: State) -> bool:
    """Whether a supervisor holds this state directory."""
    if not (state.root / "lock").exists():
        return False
    try:
        with only_supervisor(state):
            return False
    except children.FailedToStart:
        return True


def end_leftovers(state: State, patience_s: float = 20) -> None:
    """End what a killed supervisor left. The kernel has asked it to stop already where it can."""
    left = {name: entry["pid"] for name, entry in state.processes().items() if name != "supervisor"}
    if sys.platform != "linux":
        for pid in left.values():
            _signal(pid, signal.SIGTERM)
    if not children.poll_until(lambda: not (left.keys() & state.processes().keys()), patience_s):
        for name in left.keys() & state.processes().keys():
            _signal(left[name], signal.SIGKILL)
        children.poll_until(lambda: not (left.keys() & state.processes().keys()), patience_s)
    state.processes_file.unlink(missing_ok=True)
    state.env_file.unlink(missing_ok=True)


def _signal(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


def up(
    state_dir: Path,
    *,
    replicas: int = 1,
    env: dict[str, str] | None = None,
    timeout_s: float = 240,
    module: str = "deploy.local",
) -> dict[str, str]:
    """Start a stack in the background on free ports and wait until it is healthy; what its env file says.

    For tests. `env` reaches every part; `module` is the supervisor's, where another plan is wanted. Raises
    FailedToStart with everything the stack printed.
    """
    settings = os.environ | {"RAPPORT_HTTP_PORT": "0", "RAPPORT_GRPC_PORT": "0", "RAPPORT_TRACES_PORT": "0"}
    settings |= {"RAPPORT_STATE_DIR": str(state_dir), "PYTHONPATH": str(CHECKOUT)} | (env or {})
    command = [sys.executable, "-m", module, "up", "--detach", "--replicas", str(replicas)]
    started = subprocess.run(
        command, check=False, cwd=CHECKOUT, env=settings, capture_output=True, text=True, timeout=timeout_s
    )
    if started.returncode != 0:
        raise children.FailedToStart(started.stdout + started.stderr)
    return State(state_dir.resolve()).env()


def down(state: State) -> bool:
    """Stop the stack and wait until everything has ended; False when none ran."""
    running = state.processes().get("supervisor")
    if running is None and not state.processes():
        return False
    if running is not None:
        _signal(running["pid"], signal.SIGTERM)
        if not children.poll_until(lambda: children.started(running["pid"]) is None, DOWN_TIMEOUT_S):
            _signal(running["pid"], signal.SIGKILL)
    end_leftovers(state)
    return True


def reset(state: State) -> None:
    """Stop the stack and delete all it keeps."""
    down(state)
    postgres.remove(state.root / "postgres" / "data")
    shutil.rmtree(state.root, ignore_errors=True)


def matching(state: State, part: str) -> dict[str, dict[str, Any]]:
    """The running parts of this name (`sales-1`) or kind (`sales`). Raises NotRunning when there is none."""
    found = {
        name: entry
        for name, entry in state.processes().items()
        if name != "supervisor" and part in {name, entry["kind"]}
    }
    if not found:
        names = ", ".join(name for name in state.processes() if name != "supervisor") or "nothing"
        raise NotRunning(f"no part {part!r} runs here; running: {names}")
    return found


def kill(state: State, part: str, sig: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a part, or to every replica of a kind; the supervisor starts what ended again."""
    for entry in matching(state, part).values():
        _signal(entry["pid"], sig)


def kill_supervisor(state: State) -> None:
    """End the supervisor as a crash would; its parts follow."""
    _signal(state.processes()["supervisor"]["pid"], signal.SIGKILL)


def hold(state: State, part: str, sig: signal.Signals = signal.SIGKILL) -> None:
    """End a part and keep it down until `release`."""
    held = matching(state, part)
    for name in held:
        state.hold(name).touch()
    kill(state, part, sig)
    children.poll_until(lambda: not (held.keys() & state.processes().keys()), READY_TIMEOUT_S)


def release(state: State) -> None:
    """Let every part that is held start again, and wait until all are ready."""
    for marker in (state.root / "hold").iterdir():
        marker.unlink()
    wait_ready(state)


def restart(state: State, part: str, sig: signal.Signals = signal.SIGTERM, *, min_ready_s: float = 0.0) -> None:
    """End a part with a signal, one replica after the other, and wait each time for a ready successor.

    And then for ``min_ready_s`` more, like Kubernetes' minReadySeconds: a client finds a successor only when its next
    attempt to connect is due, and must not lose the other replica before that.
    """
    for name, entry in matching(state, part).items():
        _signal(entry["pid"], sig)
        if not children.poll_until(functools.partial(_succeeded, state, name, entry["pid"]), READY_TIMEOUT_S):
            raise children.FailedToStart(f"{name} did not come back; see {state.log(name)}")
        time.sleep(min_ready_s)


def _succeeded(state: State, name: str, old_pid: int) -> bool:
    now = state.processes().get(name)
    return now is not None and now["pid"] != old_pid and now["ready"]


def wipe_nats(state: State) -> None:
    """Kill NATS and delete its store; returns when it runs again, empty, with its streams made anew."""
    (state.root / "nats" / "wipe").touch()
    restart(state, "nats", signal.SIGKILL)


def wait_ready(state: State, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait until every part runs and is ready. Raises FailedToStart naming those that are not."""
    if not children.poll_until(lambda: not _unready(state), timeout_s):
        raise children.FailedToStart(f"not ready: {', '.join(_unready(state))}")


def _unready(state: State) -> list[str]:
    if "supervisor" not in (running := state.processes()):
        raise NotRunning(f"no platform runs in {state.root}")
    return [name for name in running["supervisor"]["parts"] if not running.get(name, {}).get("ready")]


# Each projection with the kind of process that keeps it and the module that makes it again.
PROJECTIONS = {
    "timeline": ("activities", "services.activities.rebuild"),
    "funnel": ("marketing", "services.marketing.rebuild"),
}


def rebuild(state: State, projection: str) -> int:
    """Make a projection again from the ledgers while the platform runs; the exit code of the work."""
    kind, module = PROJECTIONS[projection]
    if not state.env_file.exists():
        raise NotRunning(f"no platform runs in {state.root}")
    told = state.env()
    prefix = f"RAPPORT_{kind.upper()}_"
    ours = {
        "RAPPORT_DATABASE_URL": told[f"{prefix}DATABASE_URL"],
        "RAPPORT_WORKER_DATABASE_URL": told[f"{prefix}WORKER_DATABASE_URL"],
        "RAPPORT_SIGNING_KEY_FILE": str(state.key(f"{kind}.pem")),
        "RAPPORT_TRUST_FILE": str(state.key("trust.json")),
        "RAPPORT_TOKEN_KEY_FILE": str(state.key("token.key")),
        "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'gen'}",
    }
    return subprocess.run(
        [sys.executable, "-m", module], check=False, cwd=CHECKOUT, env=os.environ | told | ours
    ).returncode


def status(state: State) -> str:
    """A table of what runs."""
    lines = [
        f"{name:<14} pid {entry['pid']:<8} "
        + (f"127.0.0.1:{entry['port']:<6} " if "port" in entry else "")
        + ("" if name == "supervisor" else "ready" if entry["ready"] else "starting")
        + (f", restarted {entry['restarts']} times" if entry.get("restarts") else "")
        for name, entry in state.processes().items()
    ]
    return "\n".join(line.rstrip() for line in lines) or "nothing runs"
