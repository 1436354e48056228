"""What is sent to break a server costs it next to nothing: it is refused, soon, and nobody else notices."""

from __future__ import annotations

import gzip
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.reliability.conftest import Report
from tests.running import Client, Running

ALLOWED = {400, 404, 405, 408, 413, 415, 431}
# Of CPU, for each megabyte that is sent: reading 300,000 short keys is what JSON costs.
CPU_S_A_MB = 0.15
GROWTH_MB = 20
PATIENCE_S = 20
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def head(client: Client, *more: str, line: str = "POST /v1/contacts HTTP/1.1", **named: str) -> bytes:
    """A request's head, ended."""
    lines = [line, "Host: localhost", f"Authorization: Bearer {client.key}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([*lines, *more, "", ""]).encode("latin-1")


def post(client: Client, body: bytes, *more: str, **named: str) -> bytes:
    """A whole request with a body."""
    return head(client, *more, content_length=str(len(body)), **named) + body


def bodies(client: Client) -> Iterator[tuple[str, bytes]]:
    """JSON that is deep, wide, long or packed."""
    yield "4 MB of [", post(client, b"[" * (4 << 20))
    yield "100,000 deep", post(client, b"[" * 100_000 + b"]" * 100_000)
    yield "100,000 objects deep", post(client, b'{"custom":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001)
    yield "a deep list in a struct", post(client, b'{"custom":{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}}")
    yield "a million items", post(client, b'{"tags":[' + b"1," * 1_000_000 + b"1]}")
    yield "a million keys", post(client, b"{" + b",".join(b'"k%d":0' % each for each in range(300_000)) + b"}")
    yield "a long string", post(client, b'{"description":"' + b"x" * (4 << 20) + b'"}')
    yield "4 MB less a little", post(client, b'{"description":"' + b"x" * ((4 << 20) - 100) + b'"}')
    yield "a long name", post(client, b'{"' + b"n" * (1 << 20) + b'":1}')
    yield "a long number", post(client, b'{"given_name":' + b"9" * 1_000_000 + b"}")
    yield "many escapes", post(client, b'{"given_name":"' + b"\\u0041" * 600_000 + b'"}')
    yield "packed", post(client, gzip.compress(b" " * (64 << 20)), content_encoding="gzip")
    parts = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n" * 10_000
    yield "10,000 parts", post(client, parts).replace(b"application/json", b"multipart/form-data; boundary=x", 1)


def heads(client: Client) -> Iterator[tuple[str, bytes]]:
    """Heads that are long, doubled or wrong."""
    yield "a header of 17 kB", head(client, x_long="x" * 17_000, content_length="0")
    yield "1,000 headers", head(client, *(f"X-{each}: y" for each in range(1_000)), content_length="0")
    many = "&".join(f"p{each}=1" for each in range(1_000))
    yield "1,000 parameters", head(client, line=f"GET /v1/contacts?{many} HTTP/1.1")
    yield "a parameter 20,000 times", head(client, line=f"GET /v1/contacts?{'a=1&' * 15_000} HTTP/1.1")
    yield "a long path", head(client, line=f"GET /v1/{'a/' * 30_000} HTTP/1.1")
    yield "two authorizations", head(client, "Authorization: Bearer x", content_length="0")
    yield "two content types", head(client, "Content-Type: text/plain", content_length="2") + b"{}"
    yield "two idempotency keys", head(client, "Idempotency-Key: a", "Idempotency-Key: b", content_length="2") + b"{}"
    yield "no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200
    yield "a long method", head(client, line=f"{'M' * 5_000} /v1/contacts HTTP/1.1")
    yield "a NUL in a header", head(client, "X-A: a\0b", content_length="0")
    yield "a bare line feed", head(client, "X-A: a\nX-B: b\rX-C: c", content_length="0")
    for path in (
        "/v1//contacts",
        "/v1/%2e%2e/v1/contacts",
        "/%2e%2e/contacts",
        "//v1/contacts",
        "/v1/contacts/..;/leads",
    ):
        yield f"the path {path}", head(client, line=f"GET {path} HTTP/1.1")
    yield "a method override", head(client, "X-HTTP-Method-Override: DELETE", line="PUT /v1/contacts HTTP/1.1")


def smuggled(client: Client) -> Iterator[tuple[str, bytes]]:
    """Two readings of where a body ends, with a second request behind it that must not be answered."""
    second = head(client, line="GET /v1/leads HTTP/1.1")
    chunked = b"0\r\n\r\n" + second
    for name, lines in (
        ("both lengths", ("Content-Length: 4", "Transfer-Encoding: chunked")),
        ("the other way round", ("Transfer-Encoding: chunked", "Content-Length: 4")),
        ("two lengths", ("Content-Length: 0", "Content-Length: 300")),
        ("chunked at the wrong end", ("Transfer-Encoding: chunked, identity",)),
        ("chunked in disguise", ("Transfer-Encoding: xchunked",)),
        ("a blank before the colon", ("Transfer-Encoding : chunked",)),
        ("a signed length", ("Content-Length: +5",)),
        ("a folded header", ("X-A: b", " Transfer-Encoding: chunked", "Content-Length: 0")),
    ):
        yield name, head(client, *lines) + chunked
    yield "a chunk of no size", head(client, "Transfer-Encoding: chunked") + b"zz\r\nabc\r\n" + chunked
    yield "a chunk of 2^70 bytes", head(client, "Transfer-Encoding: chunked") + b"f" * 18 + b"\r\nabc"


def answers(platform: Running, data: bytes) -> list[int]:
    """The statuses that come back on a connection of its own; empty where it is closed or left without one."""
    host, port = platform.env["RAPPORT_URL"].removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                found += chunk
        except OSError:
            pass
    return [int(status) for status in _STATUS.findall(found)]


def gateways(platform: Running) -> list[psutil.Process]:
    """The processes that stand at the door."""
    return [
        psutil.Process(each["pid"]) for each in platform.state.processes().values() if each.get("kind") == "gateway"
    ]


def spent(processes: list[psutil.Process]) -> tuple[float, float]:
    """Seconds of CPU so far, and the memory of the largest in megabytes."""
    times = [process.cpu_times() for process in processes]
    largest = max(process.memory_info().rss for process in processes)
    return sum(each.user + each.system for each in times), largest / 2**20


@pytest.mark.line(25, nightly=True)
def test_a_bomb_is_refused_and_costs_little(
    platform: Running, scale: Callable[[int, int], int], report: Report
) -> None:
    client = platform.tenant("Bombs")
    doors = gateways(platform)
    for _, data in bodies(client):
        answers(platform, data)
    wrong, statuses, dearest, times = [], Counter[int](), (0.0, ""), scale(2, 20)
    _, before_mb = spent(doors)
    for name, data in [*bodies(client), *heads(client)]:
        began, _ = spent(doors)
        for _ in range(times):
            found = answers(platform, data)
            statuses.update(found)
            if not set(found) <= ALLOWED:
                wrong.append(f"{name}: {found}")
        dearest = max(dearest, ((spent(doors)[0] - began) / times / max(1.0, len(data) / 2**20), name))
    grown = spent(doors)[1] - before_mb
    report(
        not wrong and grown <= GROWTH_MB and dearest[0] <= CPU_S_A_MB,
        kinds=len([*bodies(client), *heads(client)]), times=times, statuses=dict(statuses),
        dearest_ms_a_mb=round(1_000 * dearest[0]), dearest=dearest[1], grown_mb=round(grown, 1),
        first=sorted(set(wrong))[:4],
    )  # fmt: skip


@pytest.mark.line(25, nightly=True)
def test_nothing_is_smuggled_behind_a_body(platform: Running, scale: Callable[[int, int], int], report: Report) -> None:
    client = platform.tenant("Smuggling")
    wrong = []
    for name, data in smuggled(client):
        for _ in range(scale(1, 20)):
            found = answers(platform, data)
            # What follows is either refused with the first or not read at all.
            if 200 in found or any(each >= 500 for each in found):
                wrong.append(f"{name}: {found}")
    report(not wrong, kinds=len([*smuggled(client)]), first=sorted(set(wrong))[:4])


@pytest.mark.line(25, nightly=True)
def test_slow_and_endless_bodies_hold_nobody_up(platform: Running, seed: int, report: Report) -> None:
    """Fifty connections that send a byte now and then, and two that never end; others are served meanwhile."""
    client = platform.tenant("Slow bodies")
    dice = random.Random(seed)
    with ThreadPoolExecutor(60) as pool:
        slow = [pool.submit(_trickle, platform, client, dice.random()) for _ in range(50)]
        endless = [pool.submit(_endless, platform, client) for _ in range(2)]
        began, served = time.monotonic(), 0
        while time.monotonic() - began < 5:
            served += client.http.get("/v1/contacts").status_code == 200
        longest = max(each.result() for each in slow)
        most = max(each.result() for each in endless)
    report(
        served > 2 and longest < 60 and most < 64 << 20, served=served, longest_s=round(longest), endless_mb=most >> 20
    )


def _connect(platform: Running) -> socket.socket:
    host, port = platform.env["RAPPORT_URL"].removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def _trickle(platform: Running, client: Client, pause_s: float) -> float:
    """How long the platform bears with a body that takes for ever."""
    began = time.monotonic()
    with _connect(platform) as connection:
        connection.settimeout(0.2 + pause_s)
        connection.sendall(head(client, content_length="100000"))
        while time.monotonic() - began < 90:
            try:
                connection.sendall(b" ")
                if connection.recv(10) is not None:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began


def _endless(platform: Running, client: Client) -> int:
    """How many bytes of a body without end the platform takes."""
    sent, chunk = 0, b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with _connect(platform) as connection:
        connection.sendall(head(client, "Transfer-Encoding: chunked"))
        try:
            while sent < 64 << 20:
                connection.sendall(chunk)
                sent += 65_536
        except OSError:
            pass
    return sent
