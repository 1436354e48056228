"""The HTTP application: every path of the contract, the pages, the probes, and one form for all errors."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.trace import Span, SpanKind
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from chassis import telemetry
from chassis.context import Caller
from chassis.contract import load
from chassis.errors import DeadlineExceeded, Failure, Internal, Invalid, Reason
from gateway import errors, openapi, sse
from gateway.contract import Route, routes
from gateway.identity.authenticate import Authenticator
from gateway.proxy import TRACE_KEY, Proxy
from gateway.readiness import Readiness
from gateway.transcode import BODY_LIMIT, HttpCall, Transcoder, too_large

_PAGES = Path(__file__).parent / "pages"
_BODY_S = 30.0
_ALWAYS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
# Headers that mean something here and must not come twice.
_SINGLE = (b"authorization", b"content-type", b"if-match", b"idempotency-key", b"last-event-id", b"x-server-timeout")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/docs.css": ("docs.css", "text/css; charset=utf-8"),
}


class App:
    """The ASGI application of one gateway process."""

    def __init__(
        self, proxy: Proxy, authenticator: Authenticator, codec: Transcoder, readiness: Readiness, public_url: str
    ) -> None:
        self._proxy = proxy
        self._authenticator = authenticator
        self._codec = codec
        self._readiness = readiness
        self._openapi = openapi.encoded(load(), routes(), public_url)
        self._openapi_etag = f'"{hashlib.sha256(self._openapi).hexdigest()[:16]}"'
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request inside its root span."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = secrets.token_hex(8)
        verb = scope["method"]
        with telemetry.span(verb, kind=SpanKind.SERVER, parent=headers.get("traceparent", "")) as span:
            response = await self._respond(scope, receive, headers, request_id, span)
            for name, value in _ALWAYS.items():
                response.headers.setdefault(name, value)
            response.headers[TRACE_KEY] = telemetry.trace_id()
            response.headers["traceparent"] = telemetry.traceparent()
            response.headers["x-request-id"] = request_id
            if self.draining:
                response.headers["connection"] = "close"
            span.set_attribute("http.response.status_code", response.status_code)
            if not isinstance(response, StreamingResponse):
                await response(scope, receive, send)
                return
        # A stream lasts; its span has told how it began.
        await response(scope, receive, send)

    async def _respond(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], request_id: str, span: Span
    ) -> Response:
        try:
            return await self._answer(scope, receive, headers, request_id, span)
        except asyncio.CancelledError:
            raise
        except Failure as failure:
            if isinstance(failure, Internal):
                failure.metadata.setdefault("request_id", request_id)
            telemetry.fail(span, failure)
            found = failure
        except Exception as error:
            telemetry.fail(span, error)
            found = errors.internal(error, request_id)
        status = errors.http_status(found, if_match="if-match" in headers)
        return Response(errors.body(found, status), status, errors.headers(found), "application/json")

    async def _answer(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], request_id: str, span: Span
    ) -> Response:
        verb, raw_path = scope["method"], scope["raw_path"].decode("latin-1")
        if verb in ("GET", "HEAD") and (page := await self._page(raw_path, headers)) is not None:
            return page
        route, path_values = routes().find(verb, raw_path)
        span.update_name(f"{verb} {route.template}")
        _refuse_doubled(scope)
        timeout_s = _timeout_s(headers)
        caller = await self._authenticator.caller(headers.get("authorization", ""))
        body = await _read_body(receive, headers)
        query = scope["query_string"].decode("latin-1")
        request = self._codec.request(route, HttpCall(path_values, query, headers, body))
        if route.method.streams:
            return self._stream(route, request, caller, headers)
        answer = await self._proxy.unary(route.method, request, caller, timeout_s, request_id)
        reply = self._codec.reply(route.method, answer)
        return Response(reply.body, 200, {"etag": reply.etag} if reply.etag else None, "application/json")

    def _stream(self, route: Route, request: bytes, caller: Caller, headers: Mapping[str, str]) -> Response:
        async def recheck() -> Caller:
            return await self._authenticator.caller(headers.get("authorization", ""))

        last_event_id = headers.get("last-event-id", "")
        subscription = self._proxy.subscribe(route.method, request, caller, recheck, last_event_id)
        lines = sse.events(subscription, self._codec)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _page(self, path: str, headers: Mapping[str, str]) -> Response | None:
        if path in _FILES:
            name, media = _FILES[path]
            return Response(_page(name), media_type=media, headers={"content-security-policy": _PAGE_POLICY})
        if path == "/openapi.json":
            cached = {"etag": self._openapi_etag, "cache-control": "no-cache"}
            if headers.get("if-none-match") == self._openapi_etag:
                return Response(status_code=304, headers=cached)
            return Response(self._openapi, media_type="application/json", headers=cached)
        if path == "/livez":
            return _json(200, {"status": "alive"})
        if path == "/readyz":
            ready, parts = await self._readiness.parts(draining=self.draining)
            return _json(200 if ready else 503, {"status": "ready" if ready else "not ready", "parts": parts})
        return None


def _json(status: int, value: Any) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@lru_cache(maxsize=len(_FILES))
def _page(name: str) -> bytes:
    return (_PAGES / name).read_bytes()


def _refuse_doubled(scope: Scope) -> None:
    seen: set[bytes] = set()
    for name, _ in scope["headers"]:
        if name in _SINGLE and name in seen:
            raise Invalid(Reason.REASON_FIELD_INVALID, f"{name.decode()}: the header stands here twice")
        seen.add(name)


def _timeout_s(headers: Mapping[str, str]) -> float | None:
    given = headers.get("x-server-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise Invalid(Reason.REASON_FIELD_INVALID, "x-server-timeout: must be a number of seconds above 0")
    return seconds


async def _read_body(receive: Receive, headers: Mapping[str, str]) -> bytes:
    """The whole body, never more of it than is allowed."""
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > BODY_LIMIT:
        raise too_large()
    chunks: list[bytes] = []
    size, end = 0, time.monotonic() + _BODY_S
    while True:
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                message = await receive()
        except TimeoutError:
            text = f"the body was not here within {_BODY_S:.0f} s"
            raise DeadlineExceeded(Reason.REASON_DEADLINE_EXCEEDED, text) from None
        if message["type"] == "http.disconnect":
            raise Invalid(Reason.REASON_CANCELLED, "the client went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_LIMIT:
            raise too_large()
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
