"""What the guides show happens: their commands and programs run as written, and print what stands below them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.parts import CHECKOUT
from tests.e2e.pages import DOCS, differences, printed, same
from tests.running import Running

# kubernetes.md's commands are for a cluster.
GUIDES = sorted(
    page.stem for page in DOCS.glob("*.md") if "\n```sh\n" in page.read_text() and page.stem != "kubernetes"
)
# What npm installs for the page, with its hashes. After a change of the page's versions: run its first command there.
PACKAGES = Path(__file__).parent / "typescript"


def reaches_npm() -> bool:
    """Whether npm is here and its registry answers."""
    ping = ["npm", "ping", "--fetch-timeout=20000", "--fetch-retries=1"]
    return shutil.which("npm") is not None and subprocess.run(ping, capture_output=True).returncode == 0


def check(platform: Running, page: Path, folder: Path) -> None:
    client = platform.tenant(page.stem)
    said, stderr = printed(page, client, platform.env["RAPPORT_GRPC"], folder)
    assert not list(differences(page, said, stderr))


@pytest.mark.parametrize("name", GUIDES)
def test_a_guides_commands_do_what_it_says(platform: Running, tmp_path: Path, name: str) -> None:
    check(platform, DOCS / f"{name}.md", tmp_path)


def test_those_who_call_over_http_find_their_guides_among_them() -> None:
    named = {"authentication", "paging", "idempotency", "errors", "events", "webhooks", "access", "limits", "agents"}
    assert named <= set(GUIDES)


def test_the_readmes_calls_answer_as_it_shows(platform: Running, tmp_path: Path) -> None:
    calls = re.findall(r"^\$ (curl (?:.*\\\n)*.*)\n(\{.*)$", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert len(calls) == 2
    page = tmp_path / "README.md"
    page.write_text("".join(f"```sh\n{call}\n```\n\n```json\n{answer}\n```\n\n" for call, answer in calls))
    check(platform, page, tmp_path)


@pytest.mark.parametrize("name", ["curl", "python-rest", "python-grpc"])
def test_a_quick_start_runs(platform: Running, tmp_path: Path, name: str) -> None:
    check(platform, DOCS / "quickstarts" / f"{name}.md", tmp_path)


@pytest.mark.timeout(600)  # npm's registry may be slow
def test_the_quick_start_in_typescript_runs(platform: Running, tmp_path: Path) -> None:
    if not reaches_npm():
        pytest.skip("needs Node.js with npm, and npm's registry")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, tmp_path)
    check(platform, DOCS / "quickstarts" / "typescript.md", tmp_path)
    assert (tmp_path / "package-lock.json").read_text() == (PACKAGES / "package-lock.json").read_text()


def test_a_text_that_differs_is_seen() -> None:
    assert same(
        '{"id": "contact_01m8955416e77v2qpeashtjjgp", …}', '{"id":"contact_01m8957p87e0a8crab33t6r0vj","etag":"1"}'
    )
    assert not same(
        '{"id": "contact_01m8955416e77v2qpeashtjjgp", …}', '{"id":"lead_01m8957p87e0a8crab33t6r0vj","etag":"1"}'
    )
    assert not same("Ana Lima …", "Ana Souza")
