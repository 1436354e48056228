"""Where the platform is and who calls: the environment, else `rapport login`, else what `make up` wrote."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cli.credentials import saved
from cli.problems import Problem

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client needs. Addresses carry no slash at their end."""

    url: str
    api_key: str
    traces_url: str


def written_by_up() -> dict[str, str]:
    """The variables in the state directory's `env` file; none where no platform was started here."""
    path = CHECKOUT / os.environ.get("RAPPORT_STATE_DIR", ".local") / "env"
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}


def load() -> Settings:
    """RAPPORT_URL, RAPPORT_API_KEY and RAPPORT_TRACES_URL; where neither of the first two is set, the user's login.

    The key of the platform started here is never sent to another address: a RAPPORT_URL from the
    environment that differs from its own needs a RAPPORT_API_KEY beside it.
    Raises Problem when no platform or no key is known.
    """
    if not (os.environ.get("RAPPORT_URL") or os.environ.get("RAPPORT_API_KEY")) and (login := saved()) is not None:
        from cli.login import refreshed  # most commands need none of it

        return Settings(login.url, refreshed(login).bearer, os.environ.get("RAPPORT_TRACES_URL", "").rstrip("/"))
    here = written_by_up()
    url = os.environ.get("RAPPORT_URL") or here.get("RAPPORT_URL", "")
    if not url:
        raise Problem(
            "no platform is known: start one with `make up`, sign in with `rapport login`, or set RAPPORT_URL and"
            " RAPPORT_API_KEY"
        )
    if url.rstrip("/") != here.get("RAPPORT_URL", "").rstrip("/"):
        here = {}
    api_key = os.environ.get("RAPPORT_API_KEY") or here.get("RAPPORT_API_KEY", "")
    if not api_key:
        raise Problem(f"no API key for {url}: set RAPPORT_API_KEY")
    traces_url = os.environ.get("RAPPORT_TRACES_URL") or here.get("RAPPORT_TRACES_URL", "")
    return Settings(url.rstrip("/"), api_key, traces_url.rstrip("/"))
