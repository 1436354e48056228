"""What every rendered overlay keeps beyond its schema: one function a promise; it yields what breaks it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from chassis.settings import KINDS, Settings, hostport
from deploy.k8s.manifests import Rendered, Workload, look, name_of, selects
from deploy.k8s.network import network

LABELS = ("name", "component", "part-of", "managed-by")
LOWEST_UID = 10_000
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod is reached at its own address
SCRATCH = "/tmp"  # noqa: S108 - a mount path, no file of ours
STOP_S = 30.0  # the longest a process waits for calls in flight after its drain (chassis/run.py)
MODULES = {kind: kind if kind == "gateway" else f"services.{kind}" for kind in KINDS}
REQUIRED = {name for name, field in Settings.model_fields.items() if field.is_required()}
NEEDED = {
    "serve": REQUIRED | {"worker_database_url", "nats_url"},
    "migrate": REQUIRED | {"worker_database_url", "owner_database_url"},
    "deploy.topology": {"nats_url"},
}
TOPOLOGY_SETTINGS = {"nats_replicas", "nats_max_bytes"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|API_KEY|PRIVATE|DATABASE_URL|NATS_URL|DSN", re.IGNORECASE)
SECRET_VALUE = re.compile(r"PRIVATE KEY|://[^/\s]*@|\b[0-9a-fA-F]{64}\b|\brap_[\w-]{20,}")

Findings = Iterator[str]
Rule = Callable[[Rendered], Findings]


def complete(rendered: Rendered) -> Findings:
    """Each process has its Deployment, each database its migration, and the streams their topology Job."""
    run = {
        (str(workload.manifest["kind"]), " ".join(container.get("args") or []))
        for workload in rendered.workloads()
        for container in workload.containers
    }
    wanted = {("Deployment", f"{module} serve") for module in MODULES.values()}
    wanted |= {("Job", f"{module} migrate") for module in MODULES.values()}
    wanted |= {("Job", "deploy.topology")}
    for kind, command in sorted(wanted - run):
        yield f"no {kind} runs `{command}`"
    for kind, command in sorted(run - wanted):
        yield f"a {kind} runs `{command}`, which is no process of ours"


def labelled(rendered: Rendered) -> Findings:
    """Every object and pod says what it is, and stands in the one namespace."""
    namespaces = [look(each, "metadata", "name") for each in rendered.kind("Namespace")]
    if len(namespaces) != 1:
        yield f"there are {len(namespaces)} Namespaces"
    for manifest in rendered.manifests:
        labels = look(manifest, "metadata", "labels") or {}
        yield from _missing_labels(name_of(manifest), labels)
        if manifest["kind"] != "Namespace" and look(manifest, "metadata", "namespace") not in namespaces:
            yield f"{name_of(manifest)} is not in the overlay's namespace"
        if manifest["kind"] == "Namespace" and labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name_of(manifest)} does not enforce Pod Security 'restricted'"
    for workload in rendered.workloads():
        yield from _missing_labels(f"{workload.label}'s pods", workload.pod_labels)


def _missing_labels(subject: str, labels: dict[str, str]) -> Findings:
    for label in LABELS:
        if not labels.get(f"app.kubernetes.io/{label}"):
            yield f"{subject} has no label app.kubernetes.io/{label}"


def pinned_image(rendered: Rendered) -> Findings:
    """Every image has a version that is not `latest`; in production, a digest."""
    for workload in rendered.workloads():
        for container in workload.containers:
            image = str(container.get("image"))
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            digest = re.search(r"@sha256:[0-9a-f]{64}$", image)
            if rendered.overlay == "production" and not digest:
                yield f"{workload.label} runs {image}, which is not pinned by digest"
            if not digest and tag in ("", "latest"):
                yield f"{workload.label} runs {image}, which names no version"


def restricted_pod(rendered: Rendered) -> Findings:
    """No root, no way to become it, no writable root, nothing of the node, no rights in the cluster."""
    for workload in rendered.workloads():
        pod = workload.pod
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.get(field):
                yield f"{workload.label} sets {field}"
        if pod.get("enableServiceLinks") is not False:
            yield f"{workload.label} takes variables from other Services: enableServiceLinks is not false"
        for volume in pod.get("volumes") or []:
            if "hostPath" in volume:
                yield f"{workload.label} mounts the node's path {look(volume, 'hostPath', 'path')}"
        for container in workload.containers:
            yield from _restricted(workload, container)


def _restricted(workload: Workload, container: dict[str, Any]) -> Findings:
    pod = workload.pod.get("securityContext") or {}
    own = container.get("securityContext") or {}
    effective = pod | own
    if effective.get("runAsNonRoot") is not True:
        yield f"{workload.label} may run as root: runAsNonRoot is not true"
    for field in ("runAsUser", "runAsGroup"):
        number = effective.get(field)
        if not isinstance(number, int) or number < LOWEST_UID:
            yield f"{workload.label} has {field} {number}, below {LOWEST_UID}"
    if look(effective, "seccompProfile", "type") != "RuntimeDefault":
        yield f"{workload.label} has no seccomp profile RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{workload.label} allows privilege escalation"
    if own.get("privileged"):
        yield f"{workload.label} is privileged"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{workload.label} can write to its root file system"
    if look(own, "capabilities", "drop") != ["ALL"] or look(own, "capabilities", "add"):
        yield f"{workload.label} keeps capabilities"
    if any("hostPort" in port for port in container.get("ports") or []):
        yield f"{workload.label} takes a port of the node"


def no_token(rendered: Rendered) -> Findings:
    """Every pod has an account of its own kind, and no token of it."""
    for workload in rendered.workloads():
        account = workload.pod.get("serviceAccountName")
        if rendered.find("ServiceAccount", str(account)) is None:
            yield f"{workload.label} runs as the ServiceAccount {account}, which is not here"
        if workload.pod.get("automountServiceAccountToken") is not False:
            yield f"{workload.label} mounts a service-account token"
    for account in rendered.kind("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(account)} mounts its token"


def resources(rendered: Rendered) -> Findings:
    """CPU and memory are asked for, memory is bounded by what was asked, CPU is not, /tmp is."""
    for workload in rendered.workloads():
        for container in workload.containers:
            requests = look(container, "resources", "requests") or {}
            limits = look(container, "resources", "limits") or {}
            for resource in ("cpu", "memory"):
                if resource not in requests:
                    yield f"{workload.label} requests no {resource}"
            if "memory" not in limits:
                yield f"{workload.label} has no memory limit"
            elif limits["memory"] != requests.get("memory"):
                yield f"{workload.label} has a memory limit that is not its request"
            if "cpu" in limits:
                yield f"{workload.label} has a CPU limit, which throttles it while the node idles"
        for volume in workload.pod.get("volumes") or []:
            if "emptyDir" in volume and not look(volume, "emptyDir", "sizeLimit"):
                yield f"{workload.label} has the scratch volume {volume.get('name')} without a size limit"


def probes(rendered: Rendered) -> Findings:
    """Start-up, liveness and readiness are asked over HTTP on a port that serves nothing else."""
    paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for workload in rendered.deployments():
        for container in workload.containers:
            for probe, path in paths.items():
                get = look(container, probe, "httpGet") or {}
                if not get:
                    yield f"{workload.label} has no HTTP {probe}"
                elif get.get("path") != path:
                    yield f"{workload.label} has a {probe} at {get.get('path')} instead of {path}"
                elif get.get("port") != "probes" or "probes" not in workload.ports:
                    yield f"{workload.label} has a {probe} at port {get.get('port')}, not its probe port"
        if len(set(workload.ports.values())) < len(workload.ports):
            yield f"{workload.label} uses one port twice"


def rollout(rendered: Rendered) -> Findings:
    """Two replicas at least, replaced one by one, never fewer than asked for."""
    for workload in rendered.deployments():
        spec = workload.manifest["spec"]
        if (spec.get("replicas") or 1) < 2:
            yield f"{workload.label} has fewer than two replicas"
        if not spec.get("minReadySeconds"):
            yield f"{workload.label} has no minReadySeconds"
        update = look(spec, "strategy", "rollingUpdate") or {}
        if update.get("maxUnavailable") != 0 or not update.get("maxSurge"):
            yield f"{workload.label} loses replicas during a rollout"


def drain(rendered: Rendered) -> Findings:
    """A pod sleeps before it is told to stop, and has time for its drain and the calls in flight."""
    for workload in rendered.deployments():
        grace = workload.pod.get("terminationGracePeriodSeconds") or 30
        for container in workload.containers:
            sleep = look(container, "lifecycle", "preStop", "sleep", "seconds")
            if not sleep:
                yield f"{workload.label} does not sleep in preStop"
            drain_s = float(rendered.environment(container).get("RAPPORT_DRAIN_S") or 2)
            needed = (sleep or 0) + drain_s + STOP_S
            if grace <= needed:
                yield f"{workload.label} is killed after {grace} s and may need {needed:g} s to stop"


def spread(rendered: Rendered) -> Findings:
    """Replicas stand on different nodes and in different zones where there are some."""
    for workload in rendered.deployments():
        constraints = workload.pod.get("topologySpreadConstraints") or []
        keys = {
            each.get("topologyKey")
            for each in constraints
            if selects(look(each, "labelSelector", "matchLabels"), workload.pod_labels)
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname"):
            if key not in keys:
                yield f"{workload.label} is not spread over {key}"


def disruption(rendered: Rendered) -> Findings:
    """One PodDisruptionBudget a Deployment, which lets a node drain and never takes the last replica."""
    for workload in rendered.deployments():
        budgets = [
            budget
            for budget in rendered.kind("PodDisruptionBudget")
            if selects(look(budget, "spec", "selector", "matchLabels"), workload.pod_labels)
        ]
        if len(budgets) != 1:
            yield f"{workload.label} has {len(budgets)} PodDisruptionBudgets"
        for budget in budgets:
            if look(budget, "spec", "maxUnavailable") != 1:
                yield f"{name_of(budget)} does not let one pod go at a time"


def selectors(rendered: Rendered) -> Findings:
    """A Deployment selects its own pods; a Service selects one Deployment's pods and ports they have."""
    for workload in rendered.deployments():
        if not selects(look(workload.manifest, "spec", "selector", "matchLabels"), workload.pod_labels):
            yield f"{workload.label} does not select the pods it makes"
    for service in rendered.kind("Service"):
        selector = look(service, "spec", "selector")
        backends = [w for w in rendered.workloads() if selects(selector, w.pod_labels)]
        if len(backends) != 1:
            yield f"{name_of(service)} selects the pods of {len(backends)} workloads"
            continue
        ports = backends[0].ports
        for port in look(service, "spec", "ports") or []:
            target = port.get("targetPort")
            if target not in ports or target == "probes":
                yield f"{name_of(service)} points at port {target}, which {backends[0].label} does not serve"


def addresses(rendered: Rendered) -> Findings:
    """Processes listen where their ports say, and find each other through headless Services that exist."""
    listens = {"RAPPORT_LISTEN": "grpc", "RAPPORT_PROBE_LISTEN": "probes", "RAPPORT_HTTP_LISTEN": "http"}
    for workload in rendered.deployments():
        for container in workload.containers:
            environment = rendered.environment(container)
            for variable, port in listens.items():
                if (variable in environment) != (port in workload.ports):
                    yield f"{workload.label} has only one of {variable} and a port named {port}"
                elif variable in environment:
                    host, number = hostport(environment[variable] or "")
                    if number != workload.ports[port] or host != EVERYWHERE:
                        yield f"{workload.label} listens at {environment[variable]}, not at its port {port}"
            for kind in KINDS:
                address = environment.get(f"RAPPORT_{kind.upper()}_ADDRESS")
                yield from _address(rendered, workload, kind, address)


def _address(rendered: Rendered, workload: Workload, kind: str, address: str | None) -> Findings:
    host, _, port = (address or "").removeprefix("dns:///").partition(":")
    service = rendered.find("Service", host)
    if host != kind or service is None:
        yield f"{workload.label} looks for {kind} at {address}, where it is not"
        return
    if look(service, "spec", "clusterIP") != "None":
        yield f"{name_of(service)} is not headless, so one connection would take every call"
    if port not in {str(each.get("port")) for each in look(service, "spec", "ports") or []}:
        yield f"{workload.label} looks for {kind} at port {port}, which {name_of(service)} does not have"


def settings(rendered: Rendered) -> Findings:
    """Every variable is one that a process reads, none that it needs is missing, and each can be read."""
    for workload in rendered.workloads():
        for container in workload.containers:
            values = {}
            for variable, value in rendered.environment(container).items():
                field = variable.removeprefix("RAPPORT_").lower()
                if field in Settings.model_fields:
                    values[field] = "from a Secret" if value is None else value
                elif not variable.startswith("OTEL_") and field not in TOPOLOGY_SETTINGS:
                    yield f"{workload.label} sets {variable}, which no process reads"
            yield from _unreadable(workload, (container.get("args") or [""])[-1], values)


def _unreadable(workload: Workload, command: str, values: dict[str, str]) -> Findings:
    needed = NEEDED.get(command, set())
    for field in sorted(needed - values.keys()):
        yield f"{workload.label} is not given RAPPORT_{field.upper()}"
    if needed <= values.keys() and command in ("serve", "migrate"):
        try:
            Settings.model_validate(values).role_set()
        except ValueError as error:
            yield f"{workload.label} does not start: {error}"


def secrets(rendered: Rendered) -> Findings:
    """Secrets come by reference: no value of one is rendered, in no kind of object."""
    for manifest in rendered.kind("Secret"):
        yield f"{name_of(manifest)} is rendered with the manifests"
    for manifest in rendered.kind("ConfigMap"):
        for key, value in (manifest.get("data") or {}).items():
            if _is_secret(key, value):
                yield f"{name_of(manifest)} holds the secret {key}"
    for workload in rendered.workloads():
        for container in workload.containers:
            for variable in container.get("env") or []:
                if _is_secret(variable["name"], variable.get("value")):
                    yield f"{workload.label} holds the secret {variable['name']}"


def _is_secret(key: str, value: str | None) -> bool:
    if value is None or key.endswith("_FILE"):
        return False
    return bool(SECRET_NAME.search(key) or SECRET_VALUE.search(value))


def references(rendered: Rendered) -> Findings:
    """What a container reads is there: ConfigMaps, mounted files, scratch; an owner's DSN in its Job only."""
    for workload in rendered.workloads():
        for container in workload.containers:
            for source in container.get("envFrom") or []:
                name = str(look(source, "configMapRef", "name"))
                if rendered.find("ConfigMap", name) is None:
                    yield f"{workload.label} reads the ConfigMap {name}, which is not here"
            environment = rendered.environment(container)
            if workload.serves and "RAPPORT_OWNER_DATABASE_URL" in environment:
                yield f"{workload.label} holds the DSN of its database's owner"
            files = set(_mounted_files(workload, container))
            for variable, path in environment.items():
                if workload.serves and variable.endswith("_FILE") and path not in files:
                    yield f"{workload.label} reads {variable} from {path}, where no file is mounted"
            if SCRATCH not in {mount.get("mountPath") for mount in container.get("volumeMounts") or []}:
                yield f"{workload.label} has no scratch volume at {SCRATCH}"


def _mounted_files(workload: Workload, container: dict[str, Any]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in workload.pod.get("volumes") or []}
    for mount in container.get("volumeMounts") or []:
        volume = volumes.get(mount["name"], {})
        for source in [*(look(volume, "projected", "sources") or []), volume]:
            for item in look(source, "secret", "items") or look(source, "configMap", "items") or []:
                yield f"{mount['mountPath']}/{item['path']}"


def jobs(rendered: Rendered) -> Findings:
    """A Job ends: it is tried a few times, for a bounded time, and goes when done."""
    for workload in rendered.jobs():
        spec = workload.manifest["spec"]
        for field in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
            if not spec.get(field):
                yield f"{workload.label} has no {field}"
        if workload.pod.get("restartPolicy") != "Never":
            yield f"{workload.label} restarts in place, which hides why it failed"


RULES: tuple[Rule, ...] = (
    complete,
    labelled,
    pinned_image,
    restricted_pod,
    no_token,
    resources,
    probes,
    rollout,
    drain,
    spread,
    disruption,
    selectors,
    addresses,
    settings,
    secrets,
    references,
    jobs,
    network,
)
