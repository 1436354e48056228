"""The driver's own process: it reads a plan, keeps to its times, and writes what became of each request.

Raw HTTP/1.1 on asyncio's streams of bytes: a client library would take more of the two cores than the platform.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import msgspec
import uvloop

from tests.reliability.driver import CUT, NO_ROOM, REFUSED, TOO_LATE, Kind, Plan

# Where the two protocols mean the same, gRPC's codes are told as HTTP's.
_HTTP_OF = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
}
_PASSING = frozenset({429, 499, 503, CUT, REFUSED})
_CONNECTIONS = 6_000
_TICK_S = 0.001


class _Call:
    """A request under way."""

    __slots__ = ("answered", "attempts", "due", "hinted", "kind", "link", "payload", "sent", "status", "tried")

    def __init__(self, kind: Kind, payload: Any, due: float) -> None:
        self.kind = kind
        self.payload = payload
        self.due = due
        self.sent = self.tried = self.answered = 0.0
        self.status = 0
        self.attempts = 0
        self.hinted = False
        self.link: _Link | None = None


class _Link(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self, web: _Web) -> None:
        self._web = web
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.call: _Call | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.call is not None:
            transport.write(self.call.payload)

    def send(self, call: _Call) -> None:
        """Sends the request on this idle connection."""
        assert self.transport
        self.call = call
        self.transport.write(call.payload)

    def data_received(self, data: bytes) -> None:
        """Takes a part of an answer; it is whole when its head and the length it tells are here."""
        data = self._buffer + data if self._buffer else data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0 or len(data) < head_end + 4 + _length(data, head_end):
            self._buffer = data
            return
        self._buffer = b""
        head = data[:head_end].lower()
        call, self.call = self.call, None
        closing = b"\r\nconnection: close" in head
        if closing and self.transport:
            self.transport.close()
        if call is not None:
            call.link = None
            call.hinted = b"\r\nretry-after:" in head
            self._web.answered(call, int(head[9:12]))
        if not closing:
            self._web.idle.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._web.lost(self)
        call, self.call = self.call, None
        if call is not None:
            call.link = None
            self._web.answered(call, CUT)


def _length(data: bytes, head_end: int) -> int:
    at = data.lower().find(b"\r\ncontent-length:", 0, head_end + 2)
    return int(data[at + 17 : data.find(b"\r\n", at + 2)]) if at >= 0 else 0


class _Web:
    """The connections to the HTTP door."""

    def __init__(self, run: _Run, url: str) -> None:
        parts = urlsplit(url)
        self._run = run
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._open = 0
        self.idle: list[_Link] = []

    def send(self, call: _Call) -> None:
        """Sends a request, on a new connection where all are busy."""
        while self.idle:
            link = self.idle.pop()
            if link.transport is not None and not link.transport.is_closing():
                call.link = link
                link.send(call)
                return
        if self._open >= _CONNECTIONS:
            self.answered(call, NO_ROOM)
            return
        self._open += 1
        call.link = link = _Link(self)
        link.call = call
        self._run.spawn(self._connect(link))

    async def _connect(self, link: _Link) -> None:
        try:
            await self._run.loop.create_connection(lambda: link, self._host, self._port)
        except OSError:
            self._open -= 1
            call, link.call = link.call, None
            if call is not None:
                call.link = None
                self.answered(call, REFUSED)
            return
        if link.call is None and link.transport is not None:
            link.transport.close()

    def lost(self, link: _Link) -> None:
        """A connection is gone."""
        self._open -= 1

    def answered(self, call: _Call, status: int) -> None:
        """An attempt has ended."""
        self._run.tried(call, status)


class _Run:
    """A plan as it runs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._web = _Web(self, plan.url)
        self._methods: dict[str, Any] = {}
        self._templates = {kind.name: _template(kind) for kind in plan.kinds}
        self._weights = [kind.weight for kind in plan.kinds]
        self._channel = grpc.aio.insecure_channel(
            f"ipv4:{plan.grpc}", options=[("grpc.service_config", _SERVICE_CONFIG), *_CHANNEL]
        )
        self._open: deque[_Call] = deque()
        self._done: list[_Call] = []
        self._began = 0.0
        self._stopped = False

    def spawn(self, work: Any) -> None:
        """Runs something beside."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> list[tuple[Any, ...]]:
        """Every request of the plan, as a row."""
        if any(kind.grpc for kind in self._plan.kinds):
            await self._channel.channel_ready()
        self.loop.add_reader(0, self._told)
        self._began = self.loop.time()
        times = self._times()
        due = next(times, None)
        while (due is not None and not self._stopped) or self._open:
            now = self.loop.time() - self._began
            while due is not None and due <= now and not self._stopped:
                self._start(due)
                due = next(times, None)
            self._end_late(now)
            await asyncio.sleep(_TICK_S)
        await self._channel.close()
        return [self._row(call) for call in self._done]

    def _told(self) -> None:
        if not os.read(0, 1):
            self.loop.remove_reader(0)
            self._stopped = True

    def _times(self) -> Iterator[float]:
        start = 0.0
        for rate, length_s in self._plan.phases:
            for n in range(int(rate * length_s)):
                yield start + n / rate
            start += length_s

    def _start(self, due: float) -> None:
        kind = self._random.choices(self._plan.kinds, self._weights)[0]
        call = _Call(kind, self._payload(kind), due)
        call.sent = self.loop.time() - self._began
        self._open.append(call)
        self._try(call)

    def _payload(self, kind: Kind) -> bytes:
        template = self._templates[kind.name]
        if kind.verb == "GET" and not kind.id_field:
            return template
        new_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4)).encode()
        if kind.grpc:
            # A field may stand anywhere in a message, so that the id needs only to be added.
            return template + bytes([kind.id_field << 3 | 2, len(new_id)]) + new_id
        return template.replace(b"{id}", new_id)

    def _try(self, call: _Call) -> None:
        if call.status:
            return
        call.attempts += 1
        call.tried = self.loop.time() - self._began
        if call.kind.grpc:
            self.spawn(self._grpc(call))
        else:
            self._web.send(call)

    async def _grpc(self, call: _Call) -> None:
        method = self._methods.get(call.kind.path)
        if method is None:
            method = self._methods[call.kind.path] = self._channel.unary_unary(call.kind.path)
        left = call.due + self._plan.deadline_s - (self.loop.time() - self._began)
        try:
            await method(call.payload, timeout=left, metadata=(("authorization", f"Bearer {call.kind.key}"),))
            status = 200
        except grpc.aio.AioRpcError as error:
            status = _HTTP_OF.get(error.code(), 500)
            call.hinted = b"google.rpc.RetryInfo" in dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        self.tried(call, status)

    def tried(self, call: _Call, status: int) -> None:
        """An attempt ended; the call does too, unless it may be tried again."""
        if call.status:
            return
        now = self.loop.time() - self._began
        pause = self._plan.pause_s * min(call.attempts, 10) * self._random.uniform(0.5, 1)
        if status in (REFUSED, CUT):
            pause = 0.0
        in_time = now + pause < call.due + self._plan.deadline_s
        if status in _PASSING and call.attempts < self._plan.attempts and in_time:
            self.loop.call_later(pause, self._try, call) if pause else self._try(call)
            return
        call.status = status if now <= call.due + self._plan.deadline_s else TOO_LATE
        call.answered = now
        self._done.append(call)

    def _end_late(self, now: float) -> None:
        while self._open and (self._open[0].status or now > self._open[0].due + self._plan.deadline_s):
            call = self._open.popleft()
            if call.status:
                continue
            if call.link is not None:
                call.link.call = None
                if call.link.transport is not None:
                    call.link.transport.abort()
            call.status, call.answered = TOO_LATE, now
            self._done.append(call)

    def _row(self, call: _Call) -> tuple[Any, ...]:
        numbers = (call.due, call.sent - call.due, call.answered - call.due, call.answered - call.tried)
        rounded = [round(each, 5) for each in numbers]
        return (call.kind.name, *rounded, call.status, call.attempts, call.hinted)


def _template(kind: Kind) -> bytes:
    if kind.grpc:
        return bytes.fromhex(kind.body)
    lines = [f"{kind.verb} {kind.path} HTTP/1.1", "host: rapport", f"authorization: Bearer {kind.key}"]
    if kind.verb == "POST":
        lines += [
            "idempotency-key: {id}",
            "content-type: application/json",
            f"content-length: {len(kind.body.encode())}",
        ]
    return "\r\n".join([*lines, "", kind.body]).encode()


# What docs/api.md asks of a gRPC client: every replica by turns, and none that says it does not serve.
_SERVICE_CONFIG = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}, "methodConfig": []}
)
_CHANNEL = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


def _main() -> None:
    told = json.loads(sys.stdin.buffer.readline())
    kinds = [Kind(**each) for each in told.pop("kinds")]

    async def run() -> list[tuple[Any, ...]]:
        return await _Run(Plan(**told, kinds=kinds)).run()

    sys.stdout.buffer.write(msgspec.msgpack.encode(uvloop.run(run())))


if __name__ == "__main__":
    _main()
