"""A gRPC generator that sends ready-made HTTP/2 frames: ``python -m tests.bench.frames ORDER.json``.

h2load sends the same body with every request; a create needs a request id of its own each time. This one packs
nothing while it measures but the stream's number, and costs some tens of microseconds a request. A call counts as
good when a message came before its trailers. Frames: RFC 9113; header compression: RFC 7541.

It keeps so many calls under way as it is told, or begins so many a second, whether those before were answered or not.
"""

from __future__ import annotations

import itertools
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
        self._answered: dict[int, bytes] = {}
        self.times_ms: list[float] = []
        # When each good answer came, by the monotonic clock that all processes of a machine share, and its message.
        self.answers: list[tuple[float, bytes]] = []
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

    def fill(self, most: int = sys.maxsize) -> int:
        """Begins calls until as many are under way as may be, and no more than so many. Returns how many it began."""
        out, began = bytearray(), 0
        while (
            began < most
            and not self.stopping
            and len(self._began) < self._streams
            and self._window >= _START_WINDOW // 4
        ):
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
            began += 1
        if out:
            self.socket.sendall(out)
        return began

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
            self._answered[stream] = self._answered.get(stream, b"") + payload
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
        message = self._answered.pop(stream, b"")[5:]
        if began is not None and good:
            now = time.perf_counter()
            self.times_ms.append((now - began) * 1000)
            self.answers.append((now, message))
        elif began is not None:
            self.failed += 1


def messages(file: Path) -> Iterator[bytes]:
    """The messages of a file, each after its length in four bytes."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        length = int(struct.unpack_from(">I", data, at)[0])
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


class Generator:
    """Sends as ordered over several connections; ``rate`` is how many calls a second it begins, where that is given."""

    def __init__(self, order: dict[str, Any]) -> None:
        bodies = messages(Path(order["bodies"]))
        self._rate: float | None = order["rate"]
        self._seconds: float = order["seconds"]
        self._selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        for address in itertools.islice(itertools.cycle(order["addresses"]), order["connections"]):
            headers = {":path": order["path"], ":authority": address, **order["headers"]}
            connection = Connection(address, headers, bodies, order["streams"])
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self.connections.append(connection)
        self._turns = itertools.cycle(self.connections)
        self._begun = 0

    def run(self) -> float:
        """Sends until the time is over and everything is answered. Returns the seconds that this took."""
        began = time.perf_counter()
        while True:
            spent = time.perf_counter() - began
            if spent > self._seconds:
                for connection in self.connections:
                    connection.stopping = True
            if all(connection.stopping and connection.idle for connection in self.connections):
                return spent
            for key, _ in self._selector.select(self._begin(spent)):
                key.data.receive()

    def _begin(self, spent: float) -> float:
        """Begins what is due after so many seconds. Returns for how long nothing else will be."""
        if self._rate is None:
            for connection in self.connections:
                connection.fill()
            return 0.1
        while self._begun < spent * self._rate:
            # Where one has no place left the call is late, which is no matter: times count from the answer.
            if not any(connection.fill(1) for connection in itertools.islice(self._turns, len(self.connections))):
                break
            self._begun += 1
        return max(0.0, min(0.1, self._begun / self._rate - spent))


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Sends as ordered and tells what came of it; the messages in hexadecimal, where calls were begun at a rate."""
    generator = Generator(order)
    seconds = generator.run()
    answers = [answer for connection in generator.connections for answer in connection.answers]
    return {
        "seconds": seconds,
        "failed": sum(connection.failed for connection in generator.connections),
        "times_ms": [time_ms for connection in generator.connections for time_ms in connection.times_ms],
        "answers": [(at, message.hex()) for at, message in answers] if order["rate"] else [],
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
