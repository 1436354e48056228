"""What an overlay renders to, as the rules look at it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).resolve().parent
OVERLAYS = ("local", "production")

Manifest = dict[str, Any]


def look(manifest: Any, *path: str | int) -> Any:
    """What stands at a path of keys and indexes; None where the path ends early."""
    for step in path:
        if isinstance(step, int):
            manifest = manifest[step] if isinstance(manifest, list) and step < len(manifest) else None
        else:
            manifest = manifest.get(step) if isinstance(manifest, dict) else None
    return manifest


def name_of(manifest: Manifest) -> str:
    return f"{manifest.get('kind')}/{look(manifest, 'metadata', 'name')}"


@dataclass(frozen=True)
class Workload:
    """A Deployment or a Job with the pod it makes."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(look(self.manifest, "metadata", "name"))

    @property
    def label(self) -> str:
        return name_of(self.manifest)

    @property
    def serves(self) -> bool:
        """Whether it runs for good; a Job runs once."""
        return bool(self.manifest["kind"] == "Deployment")

    @property
    def pod(self) -> Manifest:
        return look(self.manifest, "spec", "template", "spec") or {}

    @property
    def pod_labels(self) -> dict[str, str]:
        return look(self.manifest, "spec", "template", "metadata", "labels") or {}

    @property
    def containers(self) -> list[Manifest]:
        return [*(self.pod.get("initContainers") or []), *(self.pod.get("containers") or [])]

    @property
    def ports(self) -> dict[str, int]:
        """Container ports by name."""
        return {
            str(port.get("name")): port.get("containerPort")
            for container in self.containers
            for port in container.get("ports") or []
        }


@dataclass(frozen=True)
class Rendered:
    """Every object of an overlay."""

    overlay: str
    manifests: list[Manifest]

    def kind(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest.get("kind") in kinds]

    def find(self, kind: str, name: str) -> Manifest | None:
        return next((m for m in self.kind(kind) if look(m, "metadata", "name") == name), None)

    def workloads(self) -> Iterator[Workload]:
        return (Workload(manifest) for manifest in self.kind("Deployment", "Job"))

    def deployments(self) -> Iterator[Workload]:
        return (workload for workload in self.workloads() if workload.serves)

    def jobs(self) -> Iterator[Workload]:
        return (workload for workload in self.workloads() if not workload.serves)

    def environment(self, container: Manifest) -> dict[str, str | None]:
        """The variables a container is given. None stands for a value that comes from a Secret."""
        values: dict[str, str | None] = {}
        for source in container.get("envFrom") or []:
            config = self.find("ConfigMap", str(look(source, "configMapRef", "name")))
            values |= look(config, "data") or {}
        for variable in container.get("env") or []:
            values[variable["name"]] = variable.get("value")
        return values


def selects(selector: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector of plain labels picks these; an empty or missing one picks nothing here."""
    return bool(selector) and all(labels.get(key) == value for key, value in (selector or {}).items())


def picks(selector: Manifest | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector picks these labels; an empty one picks every pod, a missing one none."""
    if selector is None:
        return False
    expressions = selector.get("matchExpressions") or []
    if any(each["operator"] != "In" for each in expressions):
        raise ValueError(f"only the operator In is understood: {expressions}")
    listed = all(labels.get(each["key"]) in each["values"] for each in expressions)
    return listed and all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())


def render(directory: Path) -> list[Manifest]:
    """Build a kustomization; CalledProcessError, with kustomize's words in stderr, where that fails."""
    kubectl = Path(sys.executable).parent / "kubectl"
    built = subprocess.run(
        [kubectl, "kustomize", directory],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"KUBECONFIG": os.devnull},
    )
    return [manifest for manifest in yaml.safe_load_all(built.stdout) if manifest]


def load(overlay: str) -> Rendered:
    """An overlay by its name, or the `base`."""
    directory = DIRECTORY / "base" if overlay == "base" else DIRECTORY / "overlays" / overlay
    return Rendered(overlay, render(directory))
