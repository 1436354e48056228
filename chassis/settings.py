"""What a process is told by its environment. Every name begins with ``RAPPORT_``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

KINDS = ("contacts", "activities", "sales", "marketing", "gateway")
ROLES = ("serve", "relay", "consume", "timers")


class Settings(BaseSettings):
    """One process's settings. A required one that is missing stops the process with a line that names it."""

    model_config = SettingsConfigDict(env_prefix="RAPPORT_", extra="ignore")

    database_url: SecretStr = Field(description="DSN of the app role, which owns nothing.")
    worker_database_url: SecretStr | None = Field(None, description="DSN of the worker role: relay, timers, recovery.")
    owner_database_url: SecretStr | None = Field(None, description="DSN of the owner role, for `migrate` only.")
    leader_dsn: SecretStr | None = Field(None, description="Where leader locks are taken; the worker's by default.")
    nats_url: SecretStr = Field(SecretStr("nats://127.0.0.1:4222"), description="NATS, with its token if it has one.")
    listen: str = Field("127.0.0.1:0", description="host:port of the gRPC server.")
    probe_listen: str = Field("127.0.0.1:0", description="host:port of /livez and /readyz.")
    http_listen: str = Field("127.0.0.1:8080", description="host:port of the gateway's HTTP server.")
    http_fd: int | None = Field(None, description="An inherited listening socket instead of http_listen.")
    public_url: str = Field("http://127.0.0.1:8080", description="The gateway as its clients reach it.")
    contacts_address: str = ""
    activities_address: str = ""
    sales_address: str = ""
    marketing_address: str = ""
    gateway_address: str = ""
    signing_key_file: Path = Field(description="PEM file with this kind's Ed25519 private key.")
    trust_file: Path = Field(description="JSON file: each kind's public key and whom it may call.")
    token_key_file: Path = Field(description="File with 64 hexadecimal digits; signs page tokens, seals replay ids.")
    bootstrap_api_key_file: Path | None = Field(None, description="The demo tenant's API key; laptop only.")
    trusted_hosts: str = Field(
        "", description="Names, with commas, that outbound calls may find on loopback; laptop only."
    )
    roles: str = Field("serve,relay,consume,timers", description="What this process does.")
    log_level: str = "INFO"
    drain_s: float = Field(2.0, ge=0, description="Seconds from readiness turning red to the stop.")
    pool_size: int = Field(10, ge=1, description="Database connections of the app role.")
    concurrency_reads: int = Field(128, ge=1, description="Reads served at once; more are refused at once.")
    concurrency_writes: int = Field(
        64, ge=1, description="Writes served at once; more wait a moment, then are refused."
    )
    concurrency_calls: int = Field(64, ge=1, description="Calls that a gateway hands on at once.")
    rate_principal: float = Field(5_000, gt=0, description="Requests a second that one principal may send.")
    burst_principal: int = Field(10_000, ge=1, description="Requests that one principal may send at once.")
    rate_tenant: float = Field(10_000, gt=0, description="Requests a second that one tenant may send.")
    burst_tenant: int = Field(20_000, ge=1, description="Requests that one tenant may send at once.")
    seal_every_s: float = Field(60.0, gt=0, description="Ledger rows are sealed at the latest after so many seconds.")
    read_log_days: int = Field(400, ge=1, description="Days for which the log of reads is kept.")
    relay_batch: int = Field(500, ge=1, description="Ledger rows published a round; more raises speed and memory.")

    def addresses(self, kind: str) -> str:
        """Where a kind of process listens: host:port pairs with commas, or a ``dns:///`` name; empty if unknown."""
        return str(getattr(self, f"{kind}_address"))

    def role_set(self) -> frozenset[str]:
        """The roles as a set. Raises ValueError for one that does not exist."""
        roles = frozenset(each.strip() for each in self.roles.split(",") if each.strip())
        if unknown := roles - set(ROLES):
            raise ValueError(f"unknown role {', '.join(sorted(unknown))}; there are {', '.join(ROLES)}")
        return roles


def hostport(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``. Raises ValueError where it has no port."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError(f"'{text}' is not host:port")
    return host.strip("[]"), int(port)
