"""The platform as it is broken: a supervisor whose parts can be reached, cut off from each other, and patched.

`python -m tests.faults.platform up` is `deploy.local` with another plan:
- every process of a service or the gateway is started by `tests.faults.serve`, which carries the faults that work
  inside a process;
- roles are processes of their own, as `SPLITS` says;
- every connection between two parts goes through a proxy of its own (`tests.faults.proxy`);
- NATS keeps its store on a file system of limited size where the machine allows it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import asyncpg

from deploy.local import children
from deploy.local.__main__ import main
from deploy.local.parts import KINDS, MAY_CALL, Asked, Part, Plan
from deploy.local.state import State

MODULE: Final = "tests.faults.platform"
# What the stand tells the supervisor, and the supervisor its processes.
BUG, WALLS, SPLIT, INJECT = (f"RAPPORT_FAULTS_{name}" for name in ("BUG", "WALLS", "SPLIT", "INJECT"))
STORE_BYTES: Final = 3 * 1024**3

# By kind: the roles of the processes that serve, and further processes with the roles they have.
Split = tuple[str, dict[str, str]]
ALL: Final = "serve,relay,consume,timers"
SPLITS: Final[dict[str, dict[str, Split]]] = {
    "none": {},
    # Where it matters most, at the price of four processes: two relays that compete, two consumers that share.
    "some": {
        "sales": ("serve", {"relay-1": "relay,timers", "relay-2": "relay,timers"}),
        "activities": ("serve,relay,timers", {"consume-1": "consume", "consume-2": "consume"}),
    },
    "most": {
        "contacts": ("serve", {"relay-1": "relay", "relay-2": "relay", "timers-1": "timers"}),
        "sales": ("serve", {"relay-1": "relay", "relay-2": "relay", "timers-1": "timers"}),
        "activities": (
            "serve",
            {"relay-1": "relay", "relay-2": "relay", "consume-1": "consume", "consume-2": "consume"},
        ),
        "marketing": ("serve,timers", {"relay-1": "relay", "consume-1": "consume"}),
    },
}


@dataclass(frozen=True)
class Layout:
    """Which processes there are, by name, known before anything runs."""

    split: str
    replicas: int

    def serving(self, kind: str) -> list[str]:
        """The processes of a kind that answer calls."""
        return [f"{kind}-{number + 1}" for number in range(self.replicas)]

    def beside(self, kind: str) -> dict[str, str]:
        """The further processes of a kind, with their roles."""
        _, others = SPLITS[self.split].get(kind, (ALL, {}))
        return {f"{kind}-{suffix}": roles for suffix, roles in others.items()}

    def roles(self, kind: str) -> str:
        """What the serving processes of a kind do."""
        return SPLITS[self.split].get(kind, (ALL, {}))[0]

    def relaying(self) -> list[str]:
        """The processes that publish."""
        found = []
        for kind in KINDS:
            if "relay" in self.roles(kind):
                found += self.serving(kind)
            found += [name for name, roles in self.beside(kind).items() if "relay" in roles]
        return found

    def processes(self) -> dict[str, str]:
        """Every process of the services and the gateway, with its kind."""
        return {name: kind for kind in KINDS for name in (*self.serving(kind), *self.beside(kind))}

    def consuming(self) -> list[str]:
        """The processes that handle events."""
        found = []
        for kind in ("activities", "marketing"):
            if "consume" in self.roles(kind):
                found += self.serving(kind)
            found += [name for name, roles in self.beside(kind).items() if "consume" in roles]
        return found

    def edges(self) -> list[tuple[str, str]]:
        """Who connects to whom."""
        found = []
        for name, kind in self.processes().items():
            found += [(name, "postgres"), (name, "nats")]
            targets = [other for callee in MAY_CALL[kind] if callee != kind for other in self.serving(callee)]
            found += [(name, other) for other in targets]
        return found


class BrokenPlan(Plan):
    """The plan of a stand."""

    def __init__(self, state: State, asked: Asked) -> None:
        super().__init__(state, asked)
        self.layout = Layout(os.environ.get(SPLIT, "none"), asked.replicas)
        self._targets = {"postgres": self.postgres_port, "nats": self.nats_port, **self.grpc_ports}
        self._edges = {edge: state.port(">".join(edge)) for edge in self.layout.edges()}
        self._control_port = state.port("proxy")

    def infrastructure(self) -> list[Part]:
        """The proxies in place of the trace store."""
        postgres, nats = (part for part in super().infrastructure() if part.kind != "traces")
        return [postgres, self._nats(nats), self._proxies()]

    def _proxies(self) -> Part:
        config = {
            "control": self._control_port,
            "edges": {">".join(edge): [port, self._targets[edge[1]]] for edge, port in self._edges.items()},
        }
        path = self.state.root / "proxies.json"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "tests.faults.proxy", str(path)]
        if prefix := namespace():
            store, pid = self.state.root / "nats" / "jetstream", self.state.root / "nats" / "namespace"
            store.mkdir(exist_ok=True)
            pid.unlink(missing_ok=True)
            script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo $$ > "$3" && shift 3 && exec "$@"'
            command = [*prefix, "sh", "-c", script, "sh", str(STORE_BYTES), str(store), str(pid), *command]
        return Part("proxies", "proxies", command, self._control_port, env=self.common_env())

    def _nats(self, part: Part) -> Part:
        if not namespace():
            return part
        pid = self.state.root / "nats" / "namespace"
        enter = "nsenter -m" if os.geteuid() == 0 else "nsenter -U -m --preserve-credentials"
        script = f'until [ -s "$1" ]; do sleep 0.02; done; pid=$(cat "$1"); shift; exec {enter} -t "$pid" -- "$@"'
        return replace(part, command=["sh", "-c", script, "sh", str(pid), *part.command])

    def replicas_of(self, kind: str, http_fd: int) -> list[Part]:
        """A kind's processes, its roles apart. Asked when its database is ready: it gets what a stand needs there."""
        with ThreadPoolExecutor(1) as aside:  # the supervisor's loop runs in this thread
            aside.submit(asyncio.run, _prepare(self.dsn(kind, "owner"), kind)).result()
        parts = [self._broken(part, self.layout.roles(kind)) for part in super().replicas_of(kind, http_fd)]
        return parts + [self._role(parts[0], name, roles) for name, roles in self.layout.beside(kind).items()]

    def _role(self, serving: Part, name: str, roles: str) -> Part:
        probe_port = self.state.port(f"{name}-probe")
        env = self.env_of(serving.kind) | {"RAPPORT_PROBE_LISTEN": f"127.0.0.1:{probe_port}"}
        part = Part(name, serving.kind, (), probe_port, probe_port, env, orphan_signal=serving.orphan_signal)
        return self._broken(part, roles)

    def _broken(self, part: Part, roles: str) -> Part:
        command = [sys.executable, "-m", "tests.faults.serve", part.kind, "--name", part.name, "--roles", roles]
        if bug := os.environ.get(BUG):
            command += ["--bug", bug]
        ports = {port: self._edges[part.name, target] for target, port in self._targets.items()
                 if (part.name, target) in self._edges}  # fmt: skip
        env = {
            key: _through(value, ports) if key.endswith(("_URL", "_ADDRESS")) else value
            for key, value in part.env.items()
        }
        return replace(part, command=command, env=env | {INJECT: str(self.state.root / "inject")})

    def platform_env(self) -> dict[str, str]:
        """Without traces: nobody looks at them here."""
        return super().platform_env() | {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_TRACES_SAMPLER": "always_off"}


async def _prepare(owner_dsn: str, kind: str) -> None:
    """Makes the table of tally.py, and takes down the walls that a planted bug wants down."""
    walls = os.environ.get(WALLS, "")
    connection = await asyncpg.connect(owner_dsn, timeout=5)
    try:
        if kind == "activities":
            await connection.execute("CREATE TABLE IF NOT EXISTS tally (tenant_id uuid, event_id uuid)")
            await connection.execute("GRANT SELECT, INSERT ON tally TO activities_app")
        tables = "SELECT tablename FROM pg_policies WHERE policyname = 'tenant_wall'"
        for row in await connection.fetch(tables) if walls else ():
            await connection.execute(walls.format(table=row["tablename"]))
    finally:
        await connection.close()


def _through(address: str, ports: dict[int, int]) -> str:
    """An address with the proxies' ports in place of the parts' own."""
    return re.sub(
        r"(?<=127\.0\.0\.1:)\d+", lambda found: str(ports.get(int(found.group()), int(found.group()))), address
    )


@functools.cache
def namespace() -> tuple[str, ...]:
    """The command that gives a process mounts of its own; nothing where this machine refuses."""
    prefix = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-m", "--user", "--map-root-user")
    trial = [*prefix, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
    try:
        return prefix if subprocess.run(trial, check=False, capture_output=True).returncode == 0 else ()
    except FileNotFoundError:
        return ()


def store(state: State) -> Path:
    """Where NATS keeps its streams, as this process sees it."""
    inside = state.root / "nats" / "jetstream"
    if not namespace():
        return inside
    pid = int((state.root / "nats" / "namespace").read_text())
    if children.started(pid) is None:
        raise FileNotFoundError("the proxies' mount namespace is gone")
    return Path(f"/proc/{pid}/root{inside}")


if __name__ == "__main__":
    sys.exit(main(BrokenPlan, MODULE))
