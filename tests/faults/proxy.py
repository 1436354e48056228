"""TCP proxies between the parts, one for each directed pair, that can cut, hold and delay what they carry.

`python -m tests.faults.proxy CONFIG` runs them all in one process; `Control` tells that process what to do. The
config is JSON: {"control": port, "edges": {"sales-1>postgres": [listening port, target port], …}}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import uvloop

from deploy.local import ports

PASS, CUT, HOLE, DELAY = "pass", "cut", "hole", "delay"


class Edge:
    """One directed pair of parts: who connects, and to whom."""

    def __init__(self, name: str, port: int, target: int) -> None:
        self.name = name
        self.port = port
        self.target = target
        self.delay_ms = (0.0, 0.0)
        self.open = asyncio.Event()
        self.open.set()
        self.ends: set[End] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Takes connections; before, they were refused."""
        if self._server is None:
            listener = ports.listen(self.port)
            self._server = await asyncio.get_running_loop().create_server(lambda: Front(self), sock=listener)

    async def set(self, mode: str, delay_ms: float, jitter_ms: float) -> None:
        """Changes what happens to connections, old and new.

        pass: carried. cut: reset, and new ones refused. hole: nothing gets through, and nobody is told; what was
        sent arrives when the hole closes. delay: carried so many milliseconds later, in order.
        """
        self.delay_ms = (delay_ms, jitter_ms) if mode == DELAY else (0.0, 0.0)
        if mode == CUT:
            if self._server is not None:
                self._server.close()
                self._server = None
            for end in list(self.ends):
                end.reset()
        else:
            await self.listen()
        (self.open.clear if mode == HOLE else self.open.set)()
        for end in list(self.ends):
            end.flow()


class End(asyncio.Protocol):
    """One of a connection's two ends."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self._full = False  # the other end's reader is slow
        self._late: deque[tuple[float, bytes]] = deque()  # what is delayed, and until when
        self._early: list[bytes] = []  # what came before there was another end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.edge.ends.add(self)

    def flow(self) -> None:
        """Reads, or does not, as the edge and the other end's buffer say."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.other is None or self._full or not self.edge.open.is_set():
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
            return
        delay, jitter = self.edge.delay_ms
        if not delay and not self._late:
            self.other.transport.write(data)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + (delay + random.uniform(-jitter, jitter)) / 1000
        self._late.append((max(due, self._late[-1][0] if self._late else 0.0), data))
        if len(self._late) == 1:
            loop.call_at(due, self._pass_on)

    def _pass_on(self) -> None:
        """Sends on what has been late enough; in order, which timers alone do not keep."""
        loop = asyncio.get_running_loop()
        while self._late and self._late[0][0] <= loop.time():
            _, data = self._late.popleft()
            if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
                self.other.transport.write(data)
        if self._late:
            loop.call_at(self._late[0][0], self._pass_on)

    def join(self, other: End) -> None:
        """Carries to ``other`` from now on, first what has come already."""
        self.other = other
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)
        self.flow()

    def pause_writing(self) -> None:
        self._other_full(True)

    def resume_writing(self) -> None:
        self._other_full(False)

    def _other_full(self, full: bool) -> None:
        if self.other is not None:
            self.other._full = full
            self.other.flow()

    def connection_lost(self, error: Exception | None) -> None:
        self.edge.ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def reset(self) -> None:
        """Ends the connection with an RST."""
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.transport.abort()


class Front(End):
    """The end towards who connected; it connects to the target."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flow()
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        await self.edge.open.wait()
        back = End(self.edge)
        try:
            await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self.edge.target)
        except OSError:
            self.reset()
            return
        if self.transport is None or self.transport.is_closing():
            back.reset()
            return
        back.join(self)
        self.join(back)


class Proxies:
    """All edges, and the door by which they are told what to do."""

    def __init__(self, edges: dict[str, list[int]]) -> None:
        self.edges = {name: Edge(name, port, target) for name, (port, target) in edges.items()}

    async def run(self, control: int) -> None:
        """Works until it is cancelled."""
        for edge in self.edges.values():
            await edge.listen()
        server = await asyncio.start_server(self._told, "127.0.0.1", control)
        await server.serve_forever()

    async def _told(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(await self._do(json.loads(line))).encode() + b"\n")
        writer.close()

    async def _do(self, order: dict[str, Any]) -> dict[str, Any]:
        if "mount" in order:
            return await _remount(order["mount"], order["size"])
        for name in order["edges"]:
            await self.edges[name].set(order["mode"], order.get("delay_ms", 0.0), order.get("jitter_ms", 0.0))
        return {}


async def _remount(mount: str, size: int) -> dict[str, Any]:
    command = ("mount", "-o", f"remount,size={size}", mount)
    done = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, error = await done.communicate()
    return {"error": error.decode()} if done.returncode else {}


class Control:
    """Tells a running proxy process what to do."""

    def __init__(self, port: int) -> None:
        self._port = port

    def set(self, edges: Iterable[str], mode: str, *, delay_ms: float = 0.0, jitter_ms: float = 0.0) -> None:
        """Sets the mode of edges; see Edge.set. Returns when it holds."""
        self._tell({"edges": list(edges), "mode": mode, "delay_ms": delay_ms, "jitter_ms": jitter_ms})

    def resize(self, mount: Path, size: int) -> None:
        """Changes how many bytes the tmpfs at ``mount`` in the proxies' mount namespace may hold."""
        self._tell({"mount": str(mount), "size": size})

    def _tell(self, order: dict[str, Any]) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(json.dumps(order).encode() + b"\n")
            answer = json.loads(connection.makefile().readline())
        if answer.get("error"):
            raise OSError(answer["error"])


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    uvloop.run(Proxies(config["edges"]).run(config["control"]))


if __name__ == "__main__":
    main()
