"""`python -m deploy.k8s.check`: build every overlay, hold it against schemas and rules; 1 on a finding."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import kubernetes_validate

from deploy.k8s.manifests import OVERLAYS, Rendered, load, name_of
from deploy.k8s.rules import RULES

# The oldest Kubernetes the manifests work on (preStop's sleep) and the newest whose schema is known.
KUBERNETES = ("1.30", "1.37")
# Kinds without a schema here, each by name: another one that has none is a finding.
UNCHECKED_KINDS: frozenset[str] = frozenset()


class Finding(NamedTuple):
    rule: str
    message: str


def schema(rendered: Rendered) -> Iterator[str]:
    """What the schemas refuse: unknown fields, wrong types, missing ones, kinds nobody knows."""
    for manifest in rendered.manifests:
        yield from _refused(json.dumps(manifest))


@functools.cache  # one validation reads megabytes of schema
def _refused(text: str) -> tuple[str, ...]:
    manifest = json.loads(text)
    findings = []
    for version in KUBERNETES:
        subject = f"{name_of(manifest)} ({version})"
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            findings.append(f"{subject} {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            if manifest["kind"] not in UNCHECKED_KINDS:
                findings.append(f"{subject} is of a kind without a schema")
    return tuple(findings)


def check(rendered: Rendered) -> list[Finding]:
    """Everything wrong with an overlay. The rules look only at what the schemas accept."""
    if broken := [Finding("schema", message) for message in schema(rendered)]:
        return broken
    return [Finding(rule.__name__, message) for rule in RULES for message in rule(rendered)]


def main() -> int:
    failed = False
    for overlay in ("base", *OVERLAYS):
        try:
            rendered = load(overlay)
        except subprocess.CalledProcessError as error:
            print(f"{overlay}: {error.stderr.strip()}", file=sys.stderr)
            return 1
        findings = check(rendered)
        for rule, message in findings:
            print(f"{overlay}: {rule}: {message}", file=sys.stderr)
        failed |= bool(findings)
        if not findings:
            print(f"{overlay}: {len(rendered.manifests)} objects keep {len(RULES)} rules and their schemas")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
