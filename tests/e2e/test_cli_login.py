"""`rapport login` as a person uses it: the browser signs in at the provider, later commands need nothing more."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import issuer as openid
from tests.e2e.test_cli import CHECKOUT
from tests.issuer import AUDIENCE, CLIENT_ID, Person
from tests.running import Running

# A browser whose user is signed in at the provider already: it follows where it is sent.
BROWSER = f"{sys.executable} -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()' %s"
Rapport = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def rapport(platform: Running, tmp_path: Path) -> Rapport:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAPPORT_")} | {
        "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'gen'}",
        "RAPPORT_CONFIG_DIR": str(tmp_path / "config"),
        "RAPPORT_STATE_DIR": str(tmp_path / "nothing"),
        "BROWSER": BROWSER,
    }

    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", *words]
        return subprocess.run(
            command, env=environment, cwd=CHECKOUT, input=text, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("id_token", [False, True])
def test_a_person_signs_in_with_the_browser(
    platform: Running, rapport: Rapport, tmp_path: Path, id_token: bool
) -> None:
    owner = platform.tenant("Login")
    with openid.running() as issuer:
        audience = CLIENT_ID if id_token else AUDIENCE
        provider = owner.post(
            "/v1/identity_providers", {"display_name": "Test", "issuer": issuer.url, "audiences": [audience]}
        )
        link = {"system": provider["id"], "id": "ann"}
        owner.post("/v1/users", {"display_name": "Ann", "external_ids": [link]})
        issuer.person = Person("ann")
        words = ["login", "--url", owner.url, "--issuer", issuer.url, "--client-id", CLIENT_ID]
        words += ["--id-token"] if id_token else []
        done = rapport(*words)
        assert done.returncode == 0, done.stderr

        file = tmp_path / "config" / "login.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        kept = json.loads(file.read_text())
        assert owner.http.get("/v1/users", headers={"authorization": f"Bearer {kept['bearer']}"}).status_code != 401

        # A token that has ended is renewed on the way.
        file.write_text(json.dumps(kept | {"expire_time": time.time() - 1, "bearer": "ended"}))
        again = rapport("list", "users", "--json")
        # Ann may not list users without a role, but is known.
        assert "this needs the permission" in again.stderr
        assert json.loads(file.read_text())["bearer"].count(".") == 2

        assert rapport("logout").returncode == 0
        assert not file.exists()
        assert "rapport login" in rapport("list", "users").stderr


def test_a_stranger_is_told_and_nothing_is_kept(platform: Running, rapport: Rapport, tmp_path: Path) -> None:
    owner = platform.tenant("Login")
    with openid.running() as issuer:
        issuer.person = Person("stranger")
        done = rapport("login", "--url", owner.url, "--issuer", issuer.url, "--client-id", CLIENT_ID)
        assert done.returncode == 1
        assert "does not take it" in done.stderr
    assert not (tmp_path / "config" / "login.json").exists()


def test_a_key_signs_in_too(platform: Running, rapport: Rapport) -> None:
    owner = platform.tenant("Login")
    assert rapport("login", "--url", owner.url, "--api-key", text="rap_wrong\n").returncode == 1
    assert rapport("login", "--url", owner.url, "--api-key", text=f"{owner.key}\n").returncode == 0
    listed = rapport("list", "tenants", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "Login" in listed.stdout
