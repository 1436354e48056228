"""A small HTTP server on this machine that takes webhooks, as well or as badly as a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Headers = dict[str, str]


class Call(NamedTuple):
    """A call as it came."""

    path: str
    headers: Headers
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The event in it."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Handler(BaseHTTPRequestHandler):
    """Keeps a call and answers as its path says."""

    server: Receiver

    def do_POST(self) -> None:
        """Takes a call."""
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.calls.append(Call(self.path, headers, body))
        # Who hung up has heard enough.
        with contextlib.suppress(ConnectionError):
            self.server.answers.get(self.path, plain(200))(self)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


Answer = Callable[[Handler], None]


def plain(status: int, **headers: str) -> Answer:
    """An answer of a status."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")

    return answer


class Receiver(ThreadingHTTPServer):
    """The server: what came, and how each path answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[Call] = []
        self.answers: dict[str, Answer] = {}

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://localhost:{self.server_address[1]}{path}"

    def of(self, path: str) -> list[Call]:
        """What came to a path."""
        return [each for each in self.calls if each.path == path]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs for the block."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()
