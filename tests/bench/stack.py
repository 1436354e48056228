"""The platform that is measured: in a state directory of its own, on free ports, gone afterwards."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from chassis.context import Caller
from chassis.tokens import Signer
from deploy.local import control
from deploy.local.parts import KINDS
from deploy.local.state import State
from tests.running import Client, Running

# What a production process would trace.
_SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
_PARTS = (*KINDS, "postgres", "nats", "traces")


@dataclass
class Stack:
    """A running platform."""

    state: State
    env: dict[str, str]
    replicas: int
    cold_up_s: float
    _signer: Signer = field(init=False)

    def __post_init__(self) -> None:
        self._signer = Signer("gateway", self.state.key("gateway.pem"))

    @property
    def running(self) -> Running:
        """The same platform as the tests use it."""
        return Running(self.state, self.env)

    def pids(self, *parts: str) -> list[int]:
        """The processes of these kinds of parts, such as contacts or postgres, their children left out."""
        found = self.state.processes()
        return [entry["pid"] for name, entry in found.items() if name != "supervisor" and entry["kind"] in parts]

    @property
    def url(self) -> str:
        """The gateway over HTTP."""
        return self.env["RAPPORT_URL"]

    @property
    def whole(self) -> list[int]:
        """Everything that runs for the platform, supervisor and trace store included."""
        return [entry["pid"] for entry in self.state.processes().values()]

    def parts(self) -> dict[str, list[int]]:
        """The processes by kind, the supervisor among them."""
        return {part: self.pids(part) for part in _PARTS} | {
            "supervisor": [self.state.processes()["supervisor"]["pid"]]
        }

    def addresses(self, kind: str) -> list[str]:
        """Where each replica of a kind answers gRPC."""
        return self.env[f"RAPPORT_{kind.upper()}_ADDRESS"].split(",")

    def token(self, kind: str, tenant: UUID) -> str:
        """A token as the gateway would send to a kind of service; it lives for a minute."""
        scopes = frozenset({"*"})
        return self._signer.mint(kind, Caller(tenant, "user_bench", scopes, issuer="gateway"))[0]

    def restart(self) -> float:
        """Stops the platform and starts it again on what it has; the seconds until it was healthy."""
        control.down(self.state)
        began = time.monotonic()
        self.env = control.up(self.state.root, replicas=self.replicas, env=_SAMPLED)
        return time.monotonic() - began

    def tenant(self, name: str) -> Client:
        """A new tenant's administrator."""
        return self.running.tenant(name)


@contextlib.contextmanager
def stack(replicas: int = 1) -> Iterator[Stack]:
    """Runs a platform for a while; whatever happens, it is taken down and its data deleted."""
    with tempfile.TemporaryDirectory(prefix="rapport-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # PostgreSQL may run as another user
        state = State(Path(directory, "state").resolve())
        began = time.monotonic()
        try:
            env = control.up(state.root, replicas=replicas, env=_SAMPLED)
            state.create()  # it reads the passwords of what runs
            yield Stack(state, env, replicas, time.monotonic() - began)
        finally:
            control.reset(state)
