"""The HTTP server: uvicorn on this process's loop, with bounds on what a client may send before it is heard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from chassis import telemetry
from chassis.errors import Exhausted, Failure, Invalid, Reason
from chassis.service import StartupError
from chassis.settings import Settings, hostport
from gateway import errors
from gateway.admission import Admission

# A list of a thousand ids fits into a query; headers need far less.
URL_LIMIT = 64 * 1024
HEADERS_LIMIT = 7 * 1024
# A body is refused long before; its sender may be told so only once all of it is sent.
DROPPED_LIMIT = 32 * 1024 * 1024
_HEAD_S = 5.0
_KEEP_ALIVE_S = 75
_GRACE_S = 15
# A connection accepted at the last moment has its request under way: it is closed after its answer, not before.
_LINGER_S = 0.3
_CONNECTIONS = 10_000
# Where a request's scope holds the way to answer it at once: `await answer(status, head, body, close=False)`.
WHOLE = "rapport.whole"


class Protocol(HttpToolsProtocol):
    """One connection. A head that is too large or too slow is refused, and in the form of every other error."""

    def __init__(self, *, admission: Admission, **rest: Any) -> None:
        super().__init__(**rest)
        self._admission = admission
        # Between a whole request with its answer and the next one.
        self._between = True
        self._whole = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a first request."""
        super().connection_made(transport)
        self._refusal: Failure | None = None
        self._head_bytes = 0
        self._header_bytes = 0
        self._in_head = True
        self._head_timer = self.loop.call_later(_KEEP_ALIVE_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting, and the work for an answer that nobody will take."""
        self._head_timer.cancel()
        super().connection_lost(exc)
        if self._task is not None and not self.cycle.response_started:
            self._task.cancel()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def data_received(self, data: bytes) -> None:
        """Reads on; also a head that never ends is counted, and has a few seconds."""
        if self._between and (refusal := self._admission.refusal(data, self.tasks)) is not None:
            self.transport.write(refusal)
            return
        super().data_received(data)
        if self._in_head and self.parser is not None:
            if self._head_bytes == 0 and self.scope is not None:
                # Most heads come whole; a timer for each of those would be time lost.
                self._head_timer.cancel()
                self._head_timer = self.loop.call_later(_HEAD_S, self._too_slow)
            self._head_bytes += len(data)
            if self._head_bytes > URL_LIMIT + 2 * HEADERS_LIMIT and not self.transport.is_closing():
                self._refusal = _head_too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._between = self._whole = False
        self._head_bytes = self._header_bytes = self._body_bytes = 0
        self._in_head = True

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body. What a refused one still brings is dropped, but not for ever."""
        self._body_bytes += len(body)
        if self._body_bytes > DROPPED_LIMIT:
            self.transport.close()
        super().on_body(body)

    def on_url(self, url: bytes) -> None:
        """Takes a part of the URL."""
        super().on_url(url)
        if len(self.url) > URL_LIMIT:
            self._refuse(_head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADERS_LIMIT:
            self._refuse(_head_too_large())

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._head_timer.cancel()
        super().on_headers_complete()
        self.scope["extensions"] = {WHOLE: partial(_answer_whole, self.cycle)}  # type: ignore[dict-item]

    def on_response_complete(self) -> None:
        """The answer is out; the next request may come, once this one is whole."""
        self._between = self._whole and not self.pipeline
        super().on_response_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._whole = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, and closes."""
        failure = self._refusal or Invalid(Reason.REASON_BODY_MALFORMED, "this is no HTTP request")
        status = 431 if failure.reason == Reason.REASON_TOO_LARGE else 400
        body = errors.body(failure, status)
        with telemetry.span("no request"):
            head = (
                f"HTTP/1.1 {status} {'Request Header Fields Too Large' if status == 431 else 'Bad Request'}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-trace-id: {telemetry.trace_id()}\r\nconnection: close\r\n\r\n"
            )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _refuse(self, failure: Failure) -> None:
        # The parser turns an exception into one of its own, which the caller answers by send_400_response.
        self._refusal = failure
        raise failure

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def _head_too_large() -> Exhausted:
    return Exhausted(
        Reason.REASON_TOO_LARGE, f"the headers are larger than {HEADERS_LIMIT} bytes, or the URL than {URL_LIMIT}"
    )


async def _answer_whole(
    cycle: RequestResponseCycle, status: int, head: bytes, body: bytes, *, close: bool = False
) -> None:
    """Answers in one write to the socket. ``head`` holds the header lines but for content-length and connection."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.keep_alive = cycle.keep_alive and not close
    cycle.response_started = cycle.response_complete = True
    # The scope holds this function and with it the cycle, which holds the scope: a ring that only the collector frees.
    cycle.scope["extensions"] = {}
    date = b"".join(b"%s: %s\r\n" % header for header in cycle.default_headers)
    end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
    shown = b"" if cycle.scope["method"] == "HEAD" else body
    length = b"" if status == 304 else b"content-length: %d\r\n" % len(body)
    cycle.transport.write(b"".join((STATUS_LINE[status], date, head, length, end, shown)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


async def _serve(app: Any, scope: Any, receive: Any, send: Any) -> None:
    # Cancelled by connection_lost, or when the time to stop is over; either way nobody is there to be told.
    with contextlib.suppress(asyncio.CancelledError):
        await app(scope, receive, send)


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, not to one of its servers."""
        yield


class HttpDoor:
    """The public HTTP server."""

    def __init__(self, app: Any, admission: Admission) -> None:
        # A client's bad bytes are no news of ours.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            partial(_serve, app),
            interface="asgi3",
            http=partial(Protocol, admission=admission),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            limit_concurrency=_CONNECTIONS,
            backlog=1024,
        )
        self._server = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, settings: Settings) -> None:
        """Listens. Raises StartupError where the address is taken."""
        listener = _listener(settings)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise StartupError("the HTTP server ended at once")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Accepts no more, answers what was sent on connections already there, and waits for the calls under way."""
        for listener in self._server.servers:
            listener.close()
        await asyncio.sleep(_LINGER_S)
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


def _listener(settings: Settings) -> socket.socket:
    if settings.http_fd is not None:
        return socket.socket(fileno=settings.http_fd)
    host, port = hostport(settings.http_listen)
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise StartupError(f"{settings.http_listen} cannot be listened on: {error.strerror}") from error
