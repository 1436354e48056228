"""What a stack remembers between commands and restarts, all in one private directory.

env              what its clients need, KEY=value lines
processes.json   what runs: pid, start time, readiness, restarts
remembered.json  ports and database passwords
keys/            signing keys, who may call whom, the demo tenant's API key
logs/            one file a part
postgres/ nats/  the data
hold/            one empty file for each part that is kept stopped
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local import children, ports


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only we can read it."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


@dataclass
class State:
    """The state directory. It need not exist yet."""

    root: Path
    remembered: dict[str, dict[str, Any]] = field(default_factory=lambda: {"ports": {}, "passwords": {}})

    @classmethod
    def from_environment(cls) -> "State":
        """RAPPORT_STATE_DIR, or `.local` in the checkout."""
        checkout = Path(__file__).resolve().parents[2]
        return cls((checkout / os.environ.get("RAPPORT_STATE_DIR", ".local")).resolve())

    def create(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for name in ("keys", "logs", "nats", "postgres", "hold"):
            (self.root / name).mkdir(exist_ok=True)
        if self._memory.exists():
            self.remembered = json.loads(self._memory.read_text())

    @property
    def _memory(self) -> Path:
        return self.root / "remembered.json"

    @property
    def processes_file(self) -> Path:
        return self.root / "processes.json"

    @property
    def env_file(self) -> Path:
        return self.root / "env"

    def log(self, part: str) -> Path:
        return self.root / "logs" / f"{part}.log"

    def key(self, name: str) -> Path:
        return self.root / "keys" / name

    def hold(self, part: str) -> Path:
        return self.root / "hold" / part

    def port(self, name: str, asked: int = 0) -> int:
        """The port of a listener: the one asked for, else the one it had last time, else a free one.

        Raises FailedToStart when the one asked for is taken.
        """
        if asked:
            if not ports.is_free(asked):
                raise children.FailedToStart(f"port {asked} ({name}) is taken: choose another (see `make help`)")
            return asked
        known: dict[str, int] = self.remembered["ports"]
        if name not in known or not (ports.claim(known[name]) and ports.is_free(known[name])):
            known[name] = ports.free()
            self._save()
        return known[name]

    def password(self, name: str) -> str:
        """A random password, the same every time."""
        known: dict[str, str] = self.remembered["passwords"]
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            self._save()
        return known[name]

    def _save(self) -> None:
        write_private(self._memory, json.dumps(self.remembered, indent=1))

    def record(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Write down what runs; each entry has at least its `pid`."""
        known = {name: {**entry, "started": children.started(entry["pid"])} for name, entry in entries.items()}
        write_private(self.processes_file, json.dumps(known, indent=1))

    def processes(self) -> dict[str, dict[str, Any]]:
        """What runs, by name of the part; entries of processes that have ended are left out."""
        if not self.processes_file.exists():
            return {}
        known: dict[str, dict[str, Any]] = json.loads(self.processes_file.read_text())
        return {name: entry for name, entry in known.items() if _runs(entry)}

    def write_env(self, values: Mapping[str, str]) -> None:
        write_private(self.env_file, "".join(f"{key}={value}\n" for key, value in values.items()))

    def env(self) -> dict[str, str]:
        """The variables in the env file; empty when the platform is down."""
        return dict(self._env_lines())

    def _env_lines(self) -> Iterator[tuple[str, str]]:
        if self.env_file.exists():
            for line in self.env_file.read_text().splitlines():
                key, _, value = line.partition("=")
                yield key, value


def _runs(entry: Mapping[str, Any]) -> bool:
    now, then = children.started(entry["pid"]), entry["started"]
    return now is not None and then is not None and abs(now - then) < 1
