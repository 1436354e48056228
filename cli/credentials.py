"""What `rapport login` keeps: one login, in a file that its user alone can read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.problems import Problem


@dataclass(frozen=True, slots=True)
class Login:
    """A platform and what lets its user in. One by a provider has an issuer, and a token that ends."""

    url: str
    bearer: str
    issuer: str = ""
    client_id: str = ""
    id_token: bool = False
    refresh_token: str = ""
    expire_time: float = 0.0


def path() -> Path:
    """Where the login is kept: below RAPPORT_CONFIG_DIR, XDG_CONFIG_HOME or ~/.config."""
    given = os.environ.get("RAPPORT_CONFIG_DIR")
    if given:
        return Path(given) / "login.json"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "rapport" / "login.json"


def saved() -> Login | None:
    """The login, where there is one. Raises Problem for a file that cannot be read."""
    try:
        return Login(**json.loads(path().read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Problem(f"cannot read {path()}: run `rapport logout` and sign in again") from error


def save(login: Login) -> None:
    """Keeps a login in place of the one before, in one step. Raises Problem where it cannot."""
    file = path()
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(asdict(login), out)
        scratch.replace(file)
    except OSError as error:
        raise Problem(f"cannot write {file}: {error.strerror}") from error


def forget() -> bool:
    """Deletes the login; False where there was none."""
    try:
        path().unlink()
    except FileNotFoundError:
        return False
    return True
