"""Who may reach whom: network policies hold exactly the calls that tokens allow, and nothing by default."""

from collections.abc import Iterator
from typing import Any

from deploy.k8s.manifests import Manifest, Rendered, Workload, look, picks
from deploy.local.parts import KINDS, MAY_CALL

PUBLIC = {"gateway": {"http", "grpc"}}
# Outside the namespace: names, PostgreSQL, NATS, traces.
PLATFORM_PORTS = {53, 5432, 4222, 4318}
# The internet: who may call it, where, and what is never a part of it.
OUTBOUND = {"gateway"}
OUTBOUND_PORTS = {443, 8443}
INSIDE = {"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}
INTERNET_6 = "2000::/3"


def network(rendered: Rendered) -> Iterator[str]:
    """Everything is shut by default; opened is what clients, calls and the platform's servers need."""
    policies = rendered.kind("NetworkPolicy")
    if not any(_denies_all(policy) for policy in policies):
        yield "no NetworkPolicy denies everything by default"
    workloads = {workload.name: workload for workload in rendered.deployments()}
    for caller in KINDS:
        for callee in KINDS:
            if caller in workloads and callee in workloads:
                open_ = _reaches(policies, workloads[caller], workloads[callee])
                if open_ != (callee in MAY_CALL[caller]):
                    yield f"{caller} {'reaches' if open_ else 'does not reach'} {callee}"
    for workload in rendered.workloads():
        yield from _open_to_all(policies, workload)
        yield from _internet(policies, workload)


def _open_to_all(policies: list[Manifest], workload: Workload) -> Iterator[str]:
    for rule in _rules(policies, workload, "egress"):
        if "to" not in rule and not set(_ports(rule) or [None]) <= PLATFORM_PORTS:
            yield f"{workload.label} reaches any address at ports other than the platform's"
    for rule in _rules(policies, workload, "ingress"):
        if "from" not in rule and not set(_ports(rule) or [None]) <= PUBLIC.get(workload.name, set()):
            yield f"{workload.label} is open to everyone"


def _internet(policies: list[Manifest], workload: Workload) -> Iterator[str]:
    for rule in _rules(policies, workload, "egress"):
        blocks = [each["ipBlock"] for each in rule.get("to") or [] if "ipBlock" in each]
        if blocks and workload.name not in OUTBOUND:
            yield f"{workload.label} reaches addresses outside"
        if blocks and not set(_ports(rule) or [None]) <= OUTBOUND_PORTS:
            yield f"{workload.label} reaches addresses outside at ports other than HTTPS's"
        if any(block["cidr"] != INTERNET_6 and not set(block.get("except") or []) >= INSIDE for block in blocks):
            yield f"{workload.label} reaches addresses of the network inside"


def _denies_all(policy: Manifest) -> bool:
    spec = policy["spec"]
    closed = not spec.get("ingress") and not spec.get("egress")
    return closed and spec.get("podSelector") == {} and set(spec.get("policyTypes") or []) == {"Ingress", "Egress"}


def _rules(policies: list[Manifest], workload: Workload, direction: str) -> Iterator[Manifest]:
    for policy in policies:
        if picks(look(policy, "spec", "podSelector"), workload.pod_labels):
            yield from look(policy, "spec", direction) or []


def _reaches(policies: list[Manifest], caller: Workload, callee: Workload) -> bool:
    """Whether both ends let the caller's calls through to the callee's gRPC port."""
    leaves = any(_lets(rule, "to", callee) for rule in _rules(policies, caller, "egress"))
    return leaves and any(_lets(rule, "from", caller) for rule in _rules(policies, callee, "ingress"))


def _lets(rule: Manifest, end: str, peer: Workload) -> bool:
    if not {"grpc", 8090} & set(_ports(rule) or ["grpc"]):
        return False
    return end not in rule or any(picks(each.get("podSelector"), peer.pod_labels) for each in rule[end])


def _ports(rule: Manifest) -> list[Any]:
    return [port.get("port") for port in rule.get("ports") or []]
