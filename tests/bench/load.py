"""Load from other processes: h2load for gRPC, wrk for REST, and ready-made frames where each body must be another.

h2load takes one body a run and does not look at grpc-status. A gRPC call that failed carries no message, so the
bytes that came back tell how many succeeded; `h2load` raises LoadFailed where any did not.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTIONS, STREAMS = 4, 4
REST_CONNECTIONS = 16
_PACKAGES = {"h2load": "nghttp2-client", "wrk": "wrk"}
_H2LOAD_DONE = re.compile(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored")
_H2LOAD_BYTES = re.compile(r"\((\d+)\) data")
_WRK_DONE = re.compile(r"@@ (\d+) (\d+) (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)")


class LoadFailed(Exception):
    """Requests failed, so that there is nothing to measure; the message says how many and where."""


@dataclass(frozen=True)
class Load:
    """What a generator sent and saw. ``requests`` have been answered well; latencies in milliseconds.

    ``cut_off`` is about how many requests' worth of work went into those under way when time was over.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cut_off: float = 0.0

    @property
    def begun(self) -> float:
        """The requests that the servers' work was for."""
        return self.requests + self.cut_off

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def missing() -> list[str]:
    """What to install where a generator is missing; empty where all are here."""
    return [
        f"{program} is missing: apt-get install {package} (Debian), or put it on PATH"
        for program, package in _PACKAGES.items()
        if shutil.which(program) is None
    ]


def together(loads: Sequence[Load]) -> Load:
    """Loads that ran at the same time as one; latencies are the worst of them."""
    return Load(
        sum(load.requests for load in loads),
        max(load.seconds for load in loads),
        max(load.p50_ms for load in loads),
        max(load.p99_ms for load in loads),
        sum(load.cut_off for load in loads),
    )


def grpc_headers(token: str) -> dict[str, str]:
    """What a caller sends with each call."""
    return {
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": "10S",
        "authorization": f"Bearer {token}",
    }


def h2load(
    addresses: Sequence[str], path: str, body: bytes, reply_bytes: int, headers: Mapping[str, str], seconds: float
) -> Load:
    """Calls one gRPC method with one message for so long, on every address at the same time.

    ``reply_bytes`` is the length of a good reply's message. Raises LoadFailed where calls failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        frame = Path(scratch, "body")
        frame.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
        runs = [
            _H2load(address + path, frame, Path(scratch, f"log{index}"), headers, seconds, len(addresses))
            for index, address in enumerate(addresses)
        ]
        return together([run.result(reply_bytes + 5, seconds) for run in runs])


class _H2load:
    """One running h2load."""

    def __init__(
        self, target: str, body: Path, log: Path, headers: Mapping[str, str], seconds: float, parts: int
    ) -> None:
        connections = max(1, CONNECTIONS // parts)
        self._target, self._log, self._streams = target, log, connections * STREAMS
        command = [
            "h2load",
            f"-c{connections}",
            f"-m{STREAMS}",
            "-D",
            f"{round(seconds * 1000)}ms",
            "-d",
            str(body),
        ]
        command += [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        self._process = subprocess.Popen(
            [*command, f"--log-file={log}", f"http://{target}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def result(self, reply_bytes: int, seconds: float) -> Load:
        """Waits for its end. Raises LoadFailed unless every reply was as long as a good one."""
        output = self._process.communicate()[0].decode()
        done, received = _H2LOAD_DONE.search(output), _H2LOAD_BYTES.search(output)
        if self._process.returncode != 0 or done is None or received is None:
            raise LoadFailed(f"h2load on {self._target} said: {output[-400:]}")
        succeeded, failed = int(done[1]), int(done[2])
        good = int(received[1]) // reply_bytes
        # What was under way at the end is cut off; its bytes may or may not be counted.
        if not succeeded or failed or good < succeeded - self._streams:
            raise LoadFailed(f"{self._target}: {succeeded - good + failed} of {succeeded} calls failed")
        times = sorted(int(line.split()[2]) / 1000 for line in self._log.read_text().splitlines())
        # h2load closes its connections, and a service drops the calls: they were half done on average.
        return Load(succeeded, seconds, *percentiles(times), cut_off=self._streams / 2)


def percentiles(times_ms: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile of sorted times."""
    if not times_ms:
        return 0.0, 0.0
    return statistics.median(times_ms), times_ms[min(len(times_ms) - 1, int(len(times_ms) * 0.99))]


def frames(
    addresses: Sequence[str], path: str, bodies: Sequence[bytes], headers: Mapping[str, str], seconds: float
) -> Load:
    """Calls a gRPC method with each message once, for so long or until they are used up, spread over the addresses.

    Raises LoadFailed where calls failed.
    """
    with frames_command(addresses, path, bodies, headers, seconds) as command:
        run = subprocess.run(command, check=False, capture_output=True, text=True)
    seen = frames_seen(path, run.returncode, run.stdout, run.stderr)
    if seen["failed"]:
        raise LoadFailed(f"{path}: {seen['failed']} of {seen['failed'] + len(seen['times_ms'])} calls failed")
    return Load(len(seen["times_ms"]), seen["seconds"], *percentiles(sorted(seen["times_ms"])))


@contextlib.contextmanager
def frames_command(
    addresses: Sequence[str],
    path: str,
    bodies: Sequence[bytes],
    headers: Mapping[str, str],
    seconds: float,
    rate: float | None = None,
) -> Iterator[list[str]]:
    """The command that sends so; with a ``rate`` it begins so many calls a second, whatever is under way."""
    with tempfile.TemporaryDirectory() as scratch:
        order = Path(scratch, "order.json")
        file = Path(scratch, "bodies")
        file.write_bytes(b"".join(struct.pack(">I", len(body)) + body for body in bodies))
        order.write_text(
            json.dumps(
                {
                    "addresses": list(addresses), "path": path, "headers": dict(headers), "bodies": str(file),
                    "seconds": seconds, "connections": CONNECTIONS, "rate": rate,
                    "streams": STREAMS if rate is None else 100,
                }
            )
        )  # fmt: skip
        yield [sys.executable, "-m", "tests.bench.frames", str(order)]


def frames_seen(path: str, code: int, output: str, errors: str) -> dict[str, Any]:
    """What the command told. Raises LoadFailed where no call was answered well."""
    if code != 0:
        raise LoadFailed(f"{path}: {errors[-400:]}")
    seen: dict[str, Any] = json.loads(output)
    if not seen["times_ms"]:
        raise LoadFailed(f"{path}: all of {seen['failed']} calls failed")
    return seen


_WRK_SCRIPT = """
local lines, n = {}, __FIRST__
for line in io.lines("__LINES__") do lines[#lines + 1] = line end
math.randomseed(__SEED__)
function request()
  n = n + 1
  local line = __IN_ORDER__ and lines[(n - 1) % #lines + 1] or lines[math.random(#lines)]
  local path, body = line:match("^(%S+)\\t?(.*)$")
  if body == "" then body = nil else body = body:gsub("%%d", tostring(n)) end
  return wrk.format("__METHOD__", path, nil, body)
end
done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format("@@ %d %d %d %d %d %.3f %.3f\\n", summary.requests, summary.duration, e.status, e.timeout,
    e.connect + e.read + e.write, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass
class Wrk:
    """Requests of one kind over HTTP/1.1, each line of ``lines`` a path and, after a tab, a body.

    Lines are drawn at random, or taken in order where ``in_order``; %d in a body is a number never used before.
    """

    base: str
    headers: Mapping[str, str]
    lines: Sequence[str]
    method: str = "GET"
    in_order: bool = False
    connections: int = REST_CONNECTIONS
    _used: int = 0

    def __call__(self, seconds: float) -> Load:
        """Sends for so long. Raises LoadFailed where an answer was not 2xx or none came."""
        with tempfile.TemporaryDirectory() as scratch:
            lines, script = Path(scratch, "lines"), Path(scratch, "script.lua")
            lines.write_text("\n".join(self.lines) + "\n")
            script.write_text(self._script(lines))
            command = ["wrk", "-t1", f"-c{self.connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
            command += [word for name, value in self.headers.items() for word in ("-H", f"{name}: {value}")]
            run = subprocess.run([*command, "-s", str(script), self.base], check=False, capture_output=True, text=True)
        found = _WRK_DONE.search(run.stdout)
        if found is None:
            raise LoadFailed(f"wrk on {self.base} said: {run.stdout[-300:]} {run.stderr[-300:]}")
        requests, duration_us, *wrong = (int(each) for each in found.groups()[:5])
        self._used += requests + self.connections
        if any(wrong) or not requests:
            raise LoadFailed(f"{self.method} {self.lines[0][:60]}: {sum(wrong)} of {requests} requests failed")
        # The gateway finishes what wrk no longer waits for.
        return Load(requests, duration_us / 1e6, float(found[6]), float(found[7]), cut_off=self.connections)

    def _script(self, lines: Path) -> str:
        words = {
            "FIRST": str(self._used),
            "SEED": str(self._used + 1),
            "LINES": str(lines),
            "IN_ORDER": "true" if self.in_order else "false",
            "METHOD": self.method,
        }
        script = _WRK_SCRIPT
        for word, value in words.items():
            script = script.replace(f"__{word}__", value)
        return script
