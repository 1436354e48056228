"""Ways to spoil the rendered manifests: each does one harm that a tired hand could, and names who objects."""

from collections.abc import Callable
from typing import Any, NamedTuple

from deploy.k8s.manifests import Manifest, Rendered, look

Harm = Callable[[Rendered], None]


class Mutation(NamedTuple):
    name: str
    refused_by: str
    harm: Harm


def deployment(rendered: Rendered, name: str = "sales") -> Manifest:
    return found(rendered, "Deployment", name)


def found(rendered: Rendered, kind: str, name: str) -> Manifest:
    manifest = rendered.find(kind, name)
    assert manifest is not None, f"no {kind} {name} to spoil"
    return manifest


def pod(rendered: Rendered, kind: str = "Deployment", name: str = "sales") -> Manifest:
    spec = look(found(rendered, kind, name), "spec", "template", "spec")
    assert isinstance(spec, dict)
    return spec


def container(rendered: Rendered, kind: str = "Deployment", name: str = "sales") -> Manifest:
    first = look(pod(rendered, kind, name), "containers", 0)
    assert isinstance(first, dict)
    return first


def config(rendered: Rendered, name: str) -> dict[str, str]:
    """The generated ConfigMap of this name, whatever hash it ends with."""
    data = next(m for m in rendered.kind("ConfigMap") if m["metadata"]["name"].startswith(f"{name}-"))["data"]
    assert isinstance(data, dict)
    return data


def remove(rendered: Rendered, kind: str, name: str) -> None:
    rendered.manifests.remove(found(rendered, kind, name))


def put(manifest: Any, *path_and_value: Any) -> None:
    """Set what stands at a path; None takes it away."""
    *path, last, value = path_and_value
    inner = look(manifest, *path) if path else manifest
    assert isinstance(inner, dict | list)
    if value is None:
        assert isinstance(inner, list) or last in inner, f"{last} is not there to take away"
        del inner[last]
    else:
        inner[last] = value


def on(view: Callable[[Rendered], Any], *path_and_value: Any) -> Harm:
    return lambda rendered: put(view(rendered), *path_and_value)


def sales_environment(rendered: Rendered) -> list[Any]:
    variables = container(rendered)["env"]
    assert isinstance(variables, list)
    return variables


def migration(rendered: Rendered) -> Manifest:
    return container(rendered, "Job", "migrate-contacts")


_EVERYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0"}}


def topology(rendered: Rendered) -> Manifest:
    return container(rendered, "Job", "topology")


def budget(rendered: Rendered) -> Manifest:
    return found(rendered, "PodDisruptionBudget", "sales")


def policy(rendered: Rendered) -> Manifest:
    return found(rendered, "NetworkPolicy", "sales")


def outbound(rendered: Rendered) -> Manifest:
    return found(rendered, "NetworkPolicy", "gateway-outbound")


def service(rendered: Rendered) -> Manifest:
    return found(rendered, "Service", "sales")


MUTATIONS = (
    # schema
    Mutation("an unknown field", "schema", on(container, "readynessProbe", {})),
    Mutation("a value of the wrong type", "schema", on(deployment, "spec", "replicas", "two")),
    Mutation("a required field left out", "schema", on(container, "name", None)),
    Mutation("a kind nobody knows", "schema", on(deployment, "kind", "Deploymnet")),
    Mutation("a kind in the wrong version", "schema", on(deployment, "apiVersion", "apps/v1beta9")),
    # probes
    Mutation("no startup probe", "probes", on(container, "startupProbe", None)),
    Mutation("no liveness probe", "probes", on(container, "livenessProbe", None)),
    Mutation("no readiness probe", "probes", on(container, "readinessProbe", None)),
    Mutation("readiness asks /livez", "probes", on(container, "readinessProbe", "httpGet", "path", "/livez")),
    Mutation("a probe on the gRPC port", "probes", on(container, "livenessProbe", "httpGet", "port", "grpc")),
    Mutation("no probe port", "probes", lambda r: container(r)["ports"].pop(1)),
    # who it runs as and what it may do
    Mutation("root allowed", "restricted_pod", on(pod, "securityContext", "runAsNonRoot", None)),
    Mutation("runs as root", "restricted_pod", on(pod, "securityContext", "runAsUser", 0)),
    Mutation("a low user id", "restricted_pod", on(pod, "securityContext", "runAsUser", 1000)),
    Mutation("one container as root", "restricted_pod", on(container, "securityContext", "runAsUser", 0)),
    Mutation("no seccomp profile", "restricted_pod", on(pod, "securityContext", "seccompProfile", None)),
    Mutation(
        "privilege escalation",
        "restricted_pod",
        on(container, "securityContext", "allowPrivilegeEscalation", True),
    ),
    Mutation("privileged", "restricted_pod", on(container, "securityContext", "privileged", True)),
    Mutation("capabilities kept", "restricted_pod", on(container, "securityContext", "capabilities", None)),
    Mutation(
        "a capability added",
        "restricted_pod",
        on(container, "securityContext", "capabilities", "add", ["NET_RAW"]),
    ),
    Mutation(
        "a writable root",
        "restricted_pod",
        on(container, "securityContext", "readOnlyRootFilesystem", False),
    ),
    Mutation("the node's network", "restricted_pod", on(pod, "hostNetwork", True)),
    Mutation(
        "the node's files",
        "restricted_pod",
        lambda r: pod(r)["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
    ),
    Mutation("a Job as root", "restricted_pod", on(migration, "securityContext", "runAsUser", 0)),
    Mutation("a token mounted", "no_token", on(pod, "automountServiceAccountToken", True)),
    Mutation("the default account", "no_token", on(pod, "serviceAccountName", None)),
    Mutation("no account", "no_token", lambda r: remove(r, "ServiceAccount", "sales")),
    # image
    Mutation("the tag latest", "pinned_image", on(container, "image", "localhost/rapport:latest")),
    Mutation("no tag", "pinned_image", on(container, "image", "registry.example.com:5000/rapport")),
    Mutation("a tag in production", "pinned_image", on(container, "image", "registry.example.com/rapport:1.0")),
    # resources
    Mutation("no memory limit", "resources", on(container, "resources", "limits", None)),
    Mutation("no requests", "resources", on(container, "resources", "requests", None)),
    Mutation("a CPU limit", "resources", on(container, "resources", "limits", "cpu", "1")),
    Mutation("more memory than asked for", "resources", on(container, "resources", "limits", "memory", "1Gi")),
    Mutation("a Job without a limit", "resources", on(migration, "resources", "limits", None)),
    # rollout, drain, spread
    Mutation("one replica", "rollout", on(deployment, "spec", "replicas", 1)),
    Mutation("replaced all at once", "rollout", on(deployment, "spec", "strategy", {"type": "Recreate"})),
    Mutation(
        "fewer during a rollout",
        "rollout",
        on(deployment, "spec", "strategy", "rollingUpdate", "maxUnavailable", 1),
    ),
    Mutation("no minReadySeconds", "rollout", on(deployment, "spec", "minReadySeconds", None)),
    Mutation("no preStop", "drain", on(container, "lifecycle", None)),
    Mutation("killed while it drains", "drain", on(pod, "terminationGracePeriodSeconds", 20)),
    Mutation("a drain longer than the grace", "drain", lambda r: config(r, "rapport").update(RAPPORT_DRAIN_S="30")),
    Mutation("all on one node", "spread", on(pod, "topologySpreadConstraints", 1, None)),
    Mutation(
        "spread by another's pods",
        "spread",
        on(pod, "topologySpreadConstraints", 0, "labelSelector", "matchLabels", {"app": "sales"}),
    ),
    Mutation("no disruption budget", "disruption", lambda r: remove(r, "PodDisruptionBudget", "sales")),
    Mutation("a budget that blocks drains", "disruption", on(budget, "spec", "maxUnavailable", 0)),
    Mutation(
        "a budget for other pods",
        "disruption",
        on(budget, "spec", "selector", "matchLabels", "app.kubernetes.io/name", "sale"),
    ),
    # names that must agree
    Mutation(
        "a selector that misses its pods",
        "selectors",
        on(deployment, "spec", "selector", "matchLabels", "app.kubernetes.io/name", "sale"),
    ),
    Mutation(
        "a Service without pods",
        "selectors",
        on(service, "spec", "selector", "app.kubernetes.io/name", "sale"),
    ),
    Mutation(
        "a Service of every pod",
        "selectors",
        on(service, "spec", "selector", {"app.kubernetes.io/part-of": "rapport"}),
    ),
    Mutation("a wrong port name", "selectors", on(service, "spec", "ports", 0, "targetPort", "grcp")),
    Mutation("probes made public", "selectors", on(service, "spec", "ports", 0, "targetPort", "probes")),
    Mutation("a Service that balances connections", "addresses", on(service, "spec", "clusterIP", None)),
    Mutation("no Service", "addresses", lambda r: remove(r, "Service", "sales")),
    Mutation(
        "an address of nobody",
        "addresses",
        lambda r: config(r, "rapport").update(RAPPORT_SALES_ADDRESS="dns:///sale:8090"),
    ),
    Mutation(
        "listens on loopback",
        "addresses",
        lambda r: config(r, "rapport").update(RAPPORT_LISTEN="127.0.0.1:8090"),
    ),
    Mutation(
        "listens elsewhere",
        "addresses",
        lambda r: config(r, "gateway").update(RAPPORT_HTTP_LISTEN="0.0.0.0:8000"),
    ),
    Mutation("a wrong command", "complete", on(container, "args", ["services.sale", "serve"])),
    Mutation("a migration forgotten", "complete", lambda r: remove(r, "Job", "migrate-sales")),
    Mutation("no topology Job", "complete", lambda r: remove(r, "Job", "topology")),
    Mutation("a process forgotten", "complete", lambda r: remove(r, "Deployment", "marketing")),
    Mutation("unlabelled", "labelled", on(deployment, "metadata", "labels", None)),
    Mutation("in another namespace", "labelled", on(deployment, "metadata", "namespace", "default")),
    Mutation(
        "a lenient namespace",
        "labelled",
        lambda r: found(r, "Namespace", "rapport")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
    # settings and secrets
    Mutation("a misspelt variable", "settings", lambda r: config(r, "rapport").update(RAPPORT_LOGLEVEL="INFO")),
    Mutation("a role nobody plays", "settings", lambda r: config(r, "sales").update(RAPPORT_ROLES="sreve")),
    Mutation("no database", "settings", lambda r: sales_environment(r).pop(0)),
    Mutation("a migration without the owner", "settings", lambda r: migration(r)["env"].pop(0)),
    Mutation("a topology Job without NATS", "settings", on(topology, "env", [])),
    Mutation("no NATS", "settings", lambda r: sales_environment(r).pop(2)),
    Mutation(
        "a DSN in a ConfigMap",
        "secrets",
        lambda r: config(r, "sales").update(RAPPORT_DATABASE_URL="postgresql://db/sales"),
    ),
    Mutation(
        "a password in an address",
        "secrets",
        lambda r: config(r, "rapport").update(OTEL_EXPORTER_OTLP_ENDPOINT="http://rapport:pw@otel:4318"),
    ),
    Mutation(
        "a DSN in the pod",
        "secrets",
        lambda r: sales_environment(r).__setitem__(
            0, {"name": "RAPPORT_DATABASE_URL", "value": "postgresql://sales_app:pw@db/sales"}
        ),
    ),
    Mutation(
        "a Secret committed",
        "secrets",
        lambda r: r.manifests.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "nats", "namespace": "rapport"},
                "stringData": {"url": "nats://nats:4222"},
            }
        ),
    ),
    Mutation(
        "the owner's DSN in a server",
        "references",
        lambda r: sales_environment(r).append(
            {
                "name": "RAPPORT_OWNER_DATABASE_URL",
                "valueFrom": {"secretKeyRef": {"name": "sales-owner", "key": "url"}},
            }
        ),
    ),
    Mutation(
        "a ConfigMap that is not there",
        "references",
        on(container, "envFrom", 1, "configMapRef", "name", "sales"),
    ),
    Mutation("keys not mounted", "references", lambda r: container(r)["volumeMounts"].pop(0)),
    Mutation("nowhere to write", "references", lambda r: container(r)["volumeMounts"].pop(1)),
    # Jobs
    Mutation(
        "a Job without an end",
        "jobs",
        on(lambda r: found(r, "Job", "topology"), "spec", "activeDeadlineSeconds", None),
    ),
    Mutation(
        "a Job that hides its failures",
        "jobs",
        on(lambda r: pod(r, "Job", "topology"), "restartPolicy", "OnFailure"),
    ),
    # network
    Mutation("open by default", "network", lambda r: remove(r, "NetworkPolicy", "deny-all")),
    Mutation("no policy for a service", "network", lambda r: remove(r, "NetworkPolicy", "sales")),
    Mutation("a service open to everyone", "network", on(policy, "spec", "ingress", 0, "from", None)),
    Mutation("a service that reaches everything", "network", on(policy, "spec", "egress", 0, {})),
    Mutation("a service on the internet", "network", on(policy, "spec", "egress", 0, "to", 0, _EVERYWHERE)),
    Mutation("any port of the internet", "network", on(outbound, "spec", "egress", 0, "ports", [])),
    Mutation("the network inside", "network", on(outbound, "spec", "egress", 0, "to", 0, _EVERYWHERE)),
    Mutation(
        "a call nobody makes",
        "network",
        on(policy, "spec", "egress", 0, "to", 0, {"podSelector": {}}),
    ),
    Mutation(
        "a caller shut out",
        "network",
        on(
            policy,
            "spec",
            "ingress",
            0,
            "from",
            0,
            "podSelector",
            "matchExpressions",
            0,
            "values",
            ["gateway"],
        ),
    ),
)
