"""The floor of any RPC here: a bare grpc.aio server that answers each method with a reply it was given.

``python -m tests.bench.echo REPLIES.json`` with {"/path": "base64 of the reply"}; prints the port it listens on. It has
the services' options and event loop, works on raw bytes and does nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop

from chassis.run import _SERVER_OPTIONS


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, replies: Mapping[str, bytes]) -> None:
        self._replies = replies

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        reply = self._replies.get(str(details.method))
        if reply is None:
            return None

        async def unary(_request: bytes, _call: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return reply

        return grpc.unary_unary_rpc_method_handler(unary)


async def _serve(replies: Mapping[str, bytes]) -> None:
    server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=2_000)
    server.add_generic_rpc_handlers((_Handlers(replies),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until whoever started it goes


@dataclass(frozen=True)
class Echo:
    """A running echo server."""

    address: str
    pid: int
    replies: Mapping[str, bytes]


@contextlib.contextmanager
def echo(replies: Mapping[str, bytes]) -> Iterator[Echo]:
    """Runs an echo server that answers these methods, in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({path: base64.b64encode(reply).decode() for path, reply in replies.items()}, file)
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.echo", file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            yield Echo(f"127.0.0.1:{int(process.stdout.readline())}", process.pid, replies)
        finally:
            process.communicate()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    uvloop.run(_serve({path: base64.b64decode(reply) for path, reply in given.items()}))
