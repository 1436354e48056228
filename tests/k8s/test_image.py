"""What can be said of the image without building it: who it runs as, and that its sources reach the build."""

import fnmatch
import re
from pathlib import Path

import pytest

from deploy.k8s.manifests import load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SOURCES = [
    source for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
]


def test_the_image_and_the_pods_run_as_the_same_unprivileged_user() -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    for workload in load("base").workloads():
        context = workload.pod["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


@pytest.mark.parametrize("source", SOURCES)
def test_what_the_image_copies_is_in_the_build_context(source: str) -> None:
    assert (ROOT / source).exists()
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert any(fnmatch.fnmatch(source, pattern) or pattern.startswith(f"{source}/") for pattern in allowed)


def test_packages_are_installed_by_hash_and_never_built() -> None:
    installs = re.findall(r"(?:pip install|pip sync)(?:[^&]|&(?!&))*", DOCKERFILE)
    assert len(installs) == 3
    assert all("--require-hashes" in install for install in installs)
    assert all("--no-build" in install for install in installs if "pip sync" in install)
