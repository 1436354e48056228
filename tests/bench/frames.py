"""A gRPC generator that sends ready-made HTTP/2 frames: ``python -m tests.bench.frames ORDER.json``.

h2load sends the same body with every request; a create needs a request id of its own each time. This one packs
nothing while it measures but the stream's number, and costs some tens of microseconds a request. A call counts as
good when a message came before its trailers. Frames: RFC 9113; header compression: RFC 7541.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_FIRST_DYNAMIC = 62
_LARGEST_WINDOW = 2**31 - 1
_START_WINDOW = 65_535


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """A string literal without Huffman coding; its length as an integer with a prefix of seven bits."""
    raw = value.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, length = len(raw) - 127, bytearray((127,))
    while rest >= 128:
        length.append(rest % 128 | 128)
        rest //= 128
    return bytes(length) + bytes((rest,)) + raw


def header_blocks(headers: dict[str, str]) -> tuple[bytes, bytes]:
    """The header block of a connection's first request, which fills the table, and that of all later ones."""
    static = b"\x83\x86"  # :method POST, :scheme http
    first = static + b"".join(b"\x40" + _text(name) + _text(value) for name, value in headers.items())
    later = static + bytes(0x80 | (_FIRST_DYNAMIC + index) for index in reversed(range(len(headers))))
    return first, later


class Connection:
    """One HTTP/2 connection with so many calls under way; ``bodies`` is shared with the others."""

    def __init__(self, address: str, headers: dict[str, str], bodies: Iterator[bytes], streams: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._block, self._later = header_blocks(headers)
        self._bodies, self._streams = bodies, streams
        self._next_stream, self._window, self._received = 1, _START_WINDOW, b""
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self.times_ms: list[float] = []
        self.failed = 0
        self.stopping = False
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _LARGEST_WINDOW))
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _START_WINDOW))
        )

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return not self._began

    def fill(self) -> None:
        """Begins calls until as many are under way as may be."""
        out = bytearray()
        while not self.stopping and len(self._began) < self._streams and self._window >= _START_WINDOW // 4:
            body = next(self._bodies, None)
            if body is None:
                self.stopping = True
                break
            out += _frame(_HEADERS, _END_HEADERS, self._next_stream, self._block)
            message = b"\0" + struct.pack(">I", len(body)) + body
            out += _frame(_DATA, _END_STREAM, self._next_stream, message)
            self._block = self._later
            self._window -= len(message)
            self._began[self._next_stream] = time.perf_counter()
            self._next_stream += 2
        if out:
            self.socket.sendall(out)

    def receive(self) -> None:
        """Takes what has come and answers what the protocol wants answered. Raises ConnectionError at its end."""
        arrived = self.socket.recv(1 << 18)
        if not arrived:
            raise ConnectionError("the server closed the connection")
        data, at = self._received + arrived, 0
        while len(data) - at >= 9:
            lengths, flags, stream = struct.unpack_from(">IBI", data, at)
            end = at + 9 + (lengths >> 8)
            if end > len(data):
                break
            self._take(lengths & 0xFF, flags, stream, data[at + 9 : end])
            at = end
        self._received = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answered.add(stream)
        if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._end(stream, good=kind == _HEADERS and stream in self._answered)
        elif kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW and stream == 0:
            self._window += int(struct.unpack(">I", payload)[0])
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server sent GOAWAY: {payload[8:]!r}")

    def _end(self, stream: int, *, good: bool) -> None:
        began = self._began.pop(stream, None)
        self._answered.discard(stream)
        if began is not None and good:
            self.times_ms.append((time.perf_counter() - began) * 1000)
        elif began is not None:
            self.failed += 1


def messages(file: Path) -> Iterator[bytes]:
    """The messages of a file, each after its length in four bytes."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        length = int(struct.unpack_from(">I", data, at)[0])
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Sends as ordered and tells what came of it."""
    headers = {":path": order["path"], ":authority": order["address"], **order["headers"]}
    bodies = messages(Path(order["bodies"]))
    selector = selectors.DefaultSelector()
    connections = [Connection(order["address"], headers, bodies, order["streams"]) for _ in range(order["connections"])]
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    began = time.perf_counter()
    for connection in connections:
        connection.fill()
    while any(not (connection.stopping and connection.idle) for connection in connections):
        late = time.perf_counter() - began > order["seconds"]
        for key, _ in selector.select(timeout=0.1):
            connection = key.data
            connection.receive()
            connection.stopping |= late
            connection.fill()
        if late:
            for connection in connections:
                connection.stopping = True
    return {
        "seconds": time.perf_counter() - began,
        "failed": sum(connection.failed for connection in connections),
        "times_ms": [time_ms for connection in connections for time_ms in connection.times_ms],
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
