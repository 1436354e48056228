"""What the platform is made of on one machine, and what each part is told."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import nats, postgres
from deploy.local.state import State

CHECKOUT = Path(__file__).resolve().parents[2]
SERVICES = ("contacts", "activities", "sales", "marketing")
KINDS = (*SERVICES, "gateway")

# Who may call whom. Every kind may call itself; activities and marketing read other ledgers to rebuild.
MAY_CALL = {
    "contacts": ("contacts",),
    "activities": ("activities", "contacts", "sales", "marketing", "gateway"),
    "sales": ("sales", "contacts"),
    "marketing": ("marketing", "sales", "contacts", "gateway"),
    "gateway": KINDS,
}

OURS_ALONE = {"PYTHONDONTWRITEBYTECODE", "RAPPORT_READY_FD"}


@dataclass(frozen=True)
class Part:
    """One process under supervision. `probe_port` answers GET /readyz; without one, `port` accepts."""

    name: str
    kind: str
    command: Sequence[str]
    port: int
    probe_port: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGTERM  # what the kernel sends when the supervisor dies
    user: int | None = None


@dataclass(frozen=True)
class Asked:
    """What the caller chose; port 0 lets the stack choose."""

    replicas: int = 1
    http_port: int = 8080
    grpc_port: int = 8090
    traces_port: int = 4318

    @classmethod
    def from_environment(cls, replicas: int | None = None) -> "Asked":
        def number(name: str, default: int) -> int:
            return int(os.environ.get(f"RAPPORT_{name}") or default)

        return cls(
            replicas=replicas or number("REPLICAS", 1),
            http_port=number("HTTP_PORT", 8080),
            grpc_port=number("GRPC_PORT", 8090),
            traces_port=number("TRACES_PORT", 4318),
        )


class Plan:
    """Every part with its ports and environment, decided before anything starts.

    Raises FailedToStart when a port that was asked for is taken.
    """

    def __init__(self, state: State, asked: Asked) -> None:
        self.state = state
        self.asked = asked
        self.http_port = state.port("http", asked.http_port)
        self.traces_port = state.port("traces", asked.traces_port)
        self.postgres_port = state.port("postgres")
        self.nats_port = state.port("nats")
        self.nats_url = nats.url(self.nats_port, state.password("nats"))
        self.replicas = {kind: [f"{kind}-{n + 1}" for n in range(asked.replicas)] for kind in KINDS}
        self.grpc_ports = {
            name: state.port(name, asked.grpc_port if name == "gateway-1" else 0)
            for names in self.replicas.values()
            for name in names
        }
        self.install = postgres.install(state.root / "postgres" / "data")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def traces_url(self) -> str:
        return f"http://127.0.0.1:{self.traces_port}"

    @property
    def superuser_dsn(self) -> str:
        return postgres.dsn(self.postgres_port, "postgres", postgres.SUPERUSER, self.state.password("postgres"))

    def role_passwords(self) -> dict[str, str]:
        names = (f"{kind}_{role}" for kind in KINDS for role in postgres.ROLES)
        return {name: self.state.password(name) for name in names}

    def dsn(self, kind: str, role: str) -> str:
        login = f"{kind}_{role}"
        return postgres.dsn(self.postgres_port, kind, login, self.state.password(login))

    def address(self, kind: str) -> str:
        """Every replica's gRPC address, comma-separated."""
        return ",".join(f"127.0.0.1:{self.grpc_ports[name]}" for name in self.replicas[kind])

    def infrastructure(self) -> list[Part]:
        """PostgreSQL, NATS and the trace store."""
        nats_directory = self.state.root / "nats"
        config = nats.write_config(nats_directory, self.nats_port, self.state.password("nats"))
        return [
            Part(
                "postgres",
                "postgres",
                postgres.server_command(self.install, self.postgres_port),
                self.postgres_port,
                stop_signal=signal.SIGINT,
                orphan_signal=signal.SIGINT,
                user=self.install.user,
            ),
            Part("nats", "nats", [nats.binary(), "-c", str(config)], self.nats_port, env=self.common_env() | nats.ENV),
            Part(
                "traces",
                "traces",
                [sys.executable, "-m", "deploy.local.traces", "--port", str(self.traces_port)],
                self.traces_port,
                probe_port=self.traces_port,
                env=self.common_env(),
            ),
        ]

    def replicas_of(self, kind: str, http_fd: int) -> list[Part]:
        """A service's or the gateway's processes."""
        return [self._replica(kind, name, http_fd) for name in self.replicas[kind]]

    def _replica(self, kind: str, name: str, http_fd: int) -> Part:
        probe_port = self.state.port(f"{name}-probe")
        env = self.env_of(kind) | {
            "RAPPORT_LISTEN": f"127.0.0.1:{self.grpc_ports[name]}",
            "RAPPORT_PROBE_LISTEN": f"127.0.0.1:{probe_port}",
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={name}",
        }
        if kind == "gateway":
            env["RAPPORT_HTTP_FD"] = str(http_fd)
        return Part(
            name,
            kind,
            [sys.executable, "-m", module(kind), "serve"],
            self.grpc_ports[name],
            probe_port=probe_port,
            env=env,
            pass_fds=(http_fd,) if kind == "gateway" else (),
            orphan_signal=signal.SIGKILL,  # nothing to drain into: NATS and PostgreSQL go at the same moment
        )

    def common_env(self) -> dict[str, str]:
        """What every Python process of the stack gets; the caller's own RAPPORT_ and OTEL_ settings stay."""
        env = {name: value for name, value in os.environ.items() if name not in OURS_ALONE}
        env["PYTHONPATH"] = f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'gen'}"
        env["PYTHONUNBUFFERED"] = "1"
        # One heap for all threads of a process: few work at once, and each heap keeps what was freed in it.
        env.setdefault("MALLOC_ARENA_MAX", "1")
        return env

    def platform_env(self) -> dict[str, str]:
        """What every process of the platform gets, whatever its kind."""
        defaults = {
            "RAPPORT_LOG_LEVEL": "INFO",
            "RAPPORT_DRAIN_S": "0.5",
            # What a laptop's cores can keep busy; each connection more is a PostgreSQL process of several megabytes.
            "RAPPORT_POOL_SIZE": "4",
            # Webhooks and identity providers on this machine may be tried.
            "RAPPORT_TRUSTED_HOSTS": "localhost",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.traces_url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "1.0",
        }
        ours = {
            "RAPPORT_NATS_URL": self.nats_url,
            "RAPPORT_TRUST_FILE": str(self.state.key("trust.json")),
            "RAPPORT_TOKEN_KEY_FILE": str(self.state.key("token.key")),
        }
        addresses = {f"RAPPORT_{kind.upper()}_ADDRESS": self.address(kind) for kind in KINDS}
        return defaults | self.common_env() | ours | addresses

    def env_of(self, kind: str) -> dict[str, str]:
        """What every replica of a kind gets."""
        env = self.platform_env() | {
            "RAPPORT_DATABASE_URL": self.dsn(kind, "app"),
            "RAPPORT_WORKER_DATABASE_URL": self.dsn(kind, "worker"),
            "RAPPORT_SIGNING_KEY_FILE": str(self.state.key(f"{kind}.pem")),
            "OTEL_SERVICE_NAME": kind,
        }
        if kind == "gateway":
            env["RAPPORT_PUBLIC_URL"] = self.url
            env["RAPPORT_BOOTSTRAP_API_KEY_FILE"] = str(self.state.key("api-key"))
        return env

    def migrate_env(self, kind: str) -> dict[str, str]:
        """Migrations alone get the owner's login."""
        return self.env_of(kind) | {"RAPPORT_OWNER_DATABASE_URL": self.dsn(kind, "owner")}

    def client_env(self) -> dict[str, str]:
        """What the env file tells clients and tests."""
        values = {
            "RAPPORT_URL": self.url,
            "RAPPORT_GRPC": f"127.0.0.1:{self.grpc_ports['gateway-1']}",
            "RAPPORT_API_KEY": self.state.key("api-key").read_text().strip(),
            "RAPPORT_TRACES_URL": self.traces_url,
            "RAPPORT_NATS_URL": self.nats_url,
        }
        for kind in KINDS:
            name = kind.upper()
            values[f"RAPPORT_{name}_ADDRESS"] = self.address(kind)
            values[f"RAPPORT_{name}_DATABASE_URL"] = self.dsn(kind, "app")
            values[f"RAPPORT_{name}_WORKER_DATABASE_URL"] = self.dsn(kind, "worker")
            values[f"RAPPORT_{name}_OWNER_DATABASE_URL"] = self.dsn(kind, "owner")
        return values | {
            "RAPPORT_PGDATA": str(self.install.data),
            "RAPPORT_SUPERVISOR_PID": str(os.getpid()),
        }


def module(kind: str) -> str:
    """The Python module that runs a kind of process."""
    return "gateway" if kind == "gateway" else f"services.{kind}"
