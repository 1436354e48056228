"""`python -m deploy.local`: the platform on this machine."""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.local import children, control, keys
from deploy.local.parts import CHECKOUT, KINDS, Asked, Plan
from deploy.local.state import State
from deploy.local.supervisor import Supervisor

READY_FD = "RAPPORT_READY_FD"
# A process looks at its key files every second. A token between processes lives for one minute, an access token, which
# only the gateway's key signs, for fifteen.
KEY_SETTLE_S = 3.0
KEY_LIFE_S = 70.0
GATEWAY_KEY_LIFE_S = 910.0


def main(plan: Callable[[State, Asked], Plan] = Plan, module: str = "deploy.local") -> int:
    """The command line. A module of its own may run another plan: the supervisor in the background is `module`."""
    arguments = _parser().parse_args()
    state = State.from_environment()
    try:
        if arguments.command == "up" and arguments.detach:
            return _detach(state, arguments.replicas, module)
        if arguments.command == "up":
            return asyncio.run(_up(state, arguments.replicas, plan))
        return _command(arguments, state)
    except (children.FailedToStart, control.NotRunning) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The platform on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it and keep it running; Ctrl-C stops it")
    up.add_argument("--detach", action="store_true", help="return when it is healthy")
    up.add_argument("--replicas", type=int, help="processes of each service and the gateway (default 1)")
    commands.add_parser("down", help="stop it")
    commands.add_parser("reset", help="stop it and delete its data")
    commands.add_parser("status", help="show what runs")
    logs = commands.add_parser("logs", help="follow the logs")
    logs.add_argument("part", nargs="?", default="")
    logs.add_argument("--no-follow", action="store_true", help="print the last lines and return")
    for name, signal_name, what in (
        ("kill", "KILL", "signal a part (nats, sales-1) or every replica of a kind (sales); it starts again"),
        ("hold", "KILL", "end a part and keep it down until `release`"),
        ("restart", "TERM", "end a part, one replica after the other, and wait for its successor"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("part")
        command.add_argument("--signal", default=signal_name, help=f"default {signal_name}")
    commands.add_parser("release", help="start what is held, and wait until all is ready")
    rebuild = commands.add_parser("rebuild", help="make a projection again from the ledgers")
    rebuild.add_argument("projection", choices=sorted(control.PROJECTIONS))
    rotate = commands.add_parser("rotate-keys", help="give running processes new signing keys; takes minutes")
    rotate.add_argument("kind", nargs="*", help="which kinds of process; all where left out")
    commands.add_parser("wipe-nats", help="delete NATS's store and start it again")
    return parser


def _command(arguments: argparse.Namespace, state: State) -> int:
    if arguments.command == "logs":
        return _logs(state, arguments.part, follow=not arguments.no_follow)
    if arguments.command == "rebuild":
        return control.rebuild(state, arguments.projection)
    if arguments.command == "rotate-keys":
        return _rotate_keys(state, arguments.kind or KINDS)
    if arguments.command in PART_COMMANDS:
        signal_name = arguments.signal.upper().removeprefix("SIG")
        PART_COMMANDS[arguments.command](state, arguments.part, signal.Signals[f"SIG{signal_name}"])
        return 0
    STACK_COMMANDS[arguments.command](state)
    return 0


def _down(state: State) -> None:
    print("Rapport is down" if control.down(state) else "Rapport does not run here")


def _reset(state: State) -> None:
    control.reset(state)
    print(f"{_short(state.root)} is deleted")


def _rotate_keys(state: State, kinds: Sequence[str]) -> int:
    if unknown := set(kinds) - set(KINDS):
        raise control.NotRunning(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    life_s = GATEWAY_KEY_LIFE_S if "gateway" in kinds else KEY_LIFE_S
    print(f"new signing keys for {', '.join(kinds)}; the old ones stay trusted for {life_s:.0f} s", flush=True)
    keys.rotate(state, kinds, settle_s=KEY_SETTLE_S, life_s=life_s)
    print("done: only the new keys are trusted")
    return 0


def _status(state: State) -> None:
    print(control.status(state))


STACK_COMMANDS = {
    "down": _down,
    "reset": _reset,
    "status": _status,
    "release": control.release,
    "wipe-nats": control.wipe_nats,
}
PART_COMMANDS = {"kill": control.kill, "hold": control.hold, "restart": control.restart}


async def _up(state: State, replicas: int | None, plan: Callable[[State, Asked], Plan]) -> int:
    """Run the stack until a signal stops it. Exit code 0 after a clean stop."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(sig, asked_to_stop.set)
    state.create()
    with control.only_supervisor(state):
        control.end_leftovers(state)
        for marker in (state.root / "hold").iterdir():
            marker.unlink()
        print(f"Rapport starts in {_short(state.root)}")
        supervisor = Supervisor(plan(state, Asked.from_environment(replicas)))
        try:
            return await _start_and_wait(supervisor, asked_to_stop)
        finally:
            print("stopping", flush=True)
            await _stop(supervisor, asked_to_stop)
            print("Rapport is down", flush=True)


async def _start_and_wait(supervisor: Supervisor, asked_to_stop: asyncio.Event) -> int:
    began = time.monotonic()
    starting = asyncio.create_task(supervisor.start())
    stopping = asyncio.create_task(asked_to_stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return 130
    starting.result()
    print(_welcome(supervisor.plan, time.monotonic() - began), flush=True)
    _leave_terminal(supervisor.state)
    await stopping
    return 0


async def _stop(supervisor: Supervisor, asked_to_stop: asyncio.Event) -> None:
    """Stop in order; another signal meanwhile ends everything at once."""
    loop = asyncio.get_running_loop()
    if asked_to_stop.is_set():
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, supervisor.kill)
    await supervisor.stop()


def _detach(state: State, replicas: int | None, module: str) -> int:
    """Start a supervisor in its own session; return when it is healthy, or with its exit code."""
    readable, writable = os.pipe()
    command = [sys.executable, "-m", module, "up"]
    if replicas:
        command += ["--replicas", str(replicas)]
    supervisor = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(writable,),
        cwd=CHECKOUT,
        env=os.environ | {READY_FD: str(writable), "RAPPORT_STATE_DIR": str(state.root)},
    )
    os.close(writable)
    try:
        with open(readable, "rb") as ready:
            if ready.read():
                return 0
    except KeyboardInterrupt:
        supervisor.terminate()
    return supervisor.wait()


def _leave_terminal(state: State) -> None:
    """Tell the command that started us that we are healthy, and write to a log from here on."""
    if (fd := os.environ.get(READY_FD)) is None:
        return
    log = os.open(state.log("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.write(int(fd), b"ready")
    os.close(int(fd))


def _logs(state: State, part: str, *, follow: bool) -> int:
    files = sorted((state.root / "logs").glob(f"{part}*.log"))
    if not files:
        raise control.NotRunning(f"no log of {part or 'any part'} in {state.root}")
    command = ["tail", "-n", "50", *(["-F"] if follow else []), *map(str, files)]
    return subprocess.run(command, check=False).returncode


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _welcome(plan: Plan, took_s: float) -> str:
    key = plan.state.key("api-key").read_text().strip()
    return f"""
Rapport is up after {took_s:.0f} s.

  REST, docs     {plan.url}/docs
  gRPC           127.0.0.1:{plan.grpc_ports["gateway-1"]}
  recent calls   {plan.traces_url}
  demo API key   {key}
  all of it in   {_short(plan.state.env_file)}

Worth trying:

  make demo
  bin/rapport pipeline
  curl -H 'Authorization: Bearer {key}' {plan.url}/v1/deals
"""


if __name__ == "__main__":
    sys.exit(main())
