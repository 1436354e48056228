"""The Kubernetes manifests: what is rendered keeps its promises, and the check would notice if it did not."""

import ast
import copy
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.k8s.check import check
from deploy.k8s.manifests import OVERLAYS, Rendered, load, look, render
from deploy.k8s.rules import RULES
from deploy.local.parts import MAY_CALL
from tests.k8s.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]

rendered_once = functools.cache(load)


@pytest.mark.parametrize("overlay", ["base", *OVERLAYS])
def test_an_overlay_keeps_its_schema_and_every_rule(overlay: str) -> None:
    assert check(rendered_once(overlay)) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_check_refuses(mutation: Mutation) -> None:
    spoilt = copy.deepcopy(rendered_once("production"))
    mutation.harm(spoilt)
    assert mutation.refused_by in {finding.rule for finding in check(spoilt)}


def test_every_rule_has_a_mutation_that_it_refuses() -> None:
    assert {"schema", *(rule.__name__ for rule in RULES)} == {mutation.refused_by for mutation in MUTATIONS}


def test_every_overlay_is_checked() -> None:
    assert sorted(OVERLAYS) == sorted(path.name for path in (ROOT / "deploy/k8s/overlays").iterdir())


def test_production_changes_numbers_and_names_but_no_promise() -> None:
    production = rendered_once("production")
    base = rendered_once("base")
    assert {_identity(m) for m in production.manifests} == {_identity(m) for m in base.manifests}
    assert all(w.manifest["spec"]["replicas"] > 2 for w in production.deployments())


def _identity(manifest: dict[str, object]) -> tuple[object, str]:
    """Kind and name, without the hash that a generated ConfigMap's name ends with."""
    name = str(look(manifest, "metadata", "name"))
    return manifest["kind"], name.rpartition("-")[0] if manifest["kind"] == "ConfigMap" else name


def test_every_secret_that_is_read_is_in_the_guide() -> None:
    guide = (ROOT / "docs/kubernetes.md").read_text()
    missing = [
        f"{name} {key}"
        for name, key in sorted(_secrets(rendered_once("local")))
        if f"| `{name}` | `{key}` |" not in guide
    ]
    assert missing == []


def test_the_guide_lists_the_calls_that_are_allowed() -> None:
    guide = (ROOT / "docs/kubernetes.md").read_text()
    written = re.search(r"^may_call = (\{.*?^\})", guide, re.MULTILINE | re.DOTALL)
    assert written
    edges = ast.literal_eval(written[1])
    assert {caller: set(callees) for caller, callees in edges.items()} == {
        caller: set(callees) for caller, callees in MAY_CALL.items()
    }


def _secrets(rendered: Rendered) -> set[tuple[str, str]]:
    """Names and keys of the Secrets that pods read; a service's own name is written `<service>`."""
    read: set[tuple[str, str]] = set()
    for workload in rendered.workloads():
        for container in workload.containers:
            for variable in container.get("env") or []:
                reference = look(variable, "valueFrom", "secretKeyRef")
                if reference:
                    read.add((reference["name"], reference["key"]))
        for volume in workload.pod["volumes"]:
            for source in [*(look(volume, "projected", "sources") or []), volume]:
                for item in look(source, "secret", "items") or []:
                    read.add((look(source, "secret", "name") or look(source, "secret", "secretName"), item["key"]))
    return {(_general(name), key) for name, key in read}


def _general(name: str) -> str:
    service, _, rest = name.partition("-")
    return f"<process>-{rest}" if service in ("contacts", "activities", "sales", "marketing", "gateway") else name


def test_a_broken_kustomization_is_named(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    with pytest.raises(subprocess.CalledProcessError) as broken:
        render(tmp_path)
    assert "nowhere.yaml" in broken.value.stderr


def test_the_command_says_what_it_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.k8s.check"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["base", *OVERLAYS]
