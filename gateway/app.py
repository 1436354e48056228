"""The HTTP application: every path of the contract, the pages, the probes, and one form for all errors."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from opentelemetry.trace import Span, SpanKind
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from chassis import telemetry
from chassis.context import Caller, new_request_id
from chassis.contract import Method, load
from chassis.errors import DeadlineExceeded, Failure, Internal, Invalid, Reason
from gateway import errors, guides, openapi, sse
from gateway.admission import Admission
from gateway.contract import Route, published, routes
from gateway.entrance import Entrance
from gateway.http import WHOLE
from gateway.identity.authenticate import Authenticator
from gateway.identity.oauth import KEYS_PATH, METADATA_PATH, TOKEN_PATH, Refusal, TokenEndpoint
from gateway.limits import Limits
from gateway.mcp import agents
from gateway.mcp.protocol import HEADERS as AGENTS_HEADERS
from gateway.peer import PEER, of_scope
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
_SINGLE = (
    b"authorization", b"content-type", b"if-match", b"idempotency-key", b"last-event-id", b"x-server-timeout",
    *(name.encode() for name in AGENTS_HEADERS),
)  # fmt: skip
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/docs.css": ("docs.css", "text/css; charset=utf-8"),
}


# The contract, for generators of clients: of REST, and of gRPC in any language.
_CONTRACT = {"/openapi.json": "application/json", "/contract.binpb": "application/protobuf"}


class Answer(NamedTuple):
    """A whole answer; ``headers`` are those that it does not share with every other."""

    status: int
    body: bytes
    headers: dict[str, str]
    media: str = "application/json"


class App:
    """The ASGI application of one gateway process."""

    def __init__(
        self, proxy: Proxy, authenticator: Authenticator, entrance: Entrance, codec: Transcoder, readiness: Readiness,
        admission: Admission, limits: Limits, public_url: str, oauth: TokenEndpoint,
    ) -> None:  # fmt: skip
        self._oauth = oauth
        self._proxy = proxy
        self._admission = admission
        self._limits = limits
        self._authenticator = authenticator
        self._entrance = entrance
        self._codec = codec
        self._agents = agents.Agents(proxy, codec)
        self._readiness = readiness
        self._public_url = public_url
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request inside its root span."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = new_request_id()
        PEER.set(of_scope(scope))
        with telemetry.span(scope["method"], kind=SpanKind.SERVER, parent=headers.get("traceparent", "")) as span:
            told: dict[str, str] = {}
            answer = await self._respond(scope, receive, headers, request_id, span, told)
            parent = telemetry.traceparent()
            named = {TRACE_KEY: telemetry.trace_id_of(parent), "traceparent": parent, "x-request-id": request_id}
            if isinstance(answer, Answer):
                span.set_attribute("http.response.status_code", answer.status)
                head = _ALWAYS | {"content-type": answer.media} | named | told | answer.headers
                lines = "".join([f"{name}: {value}\r\n" for name, value in head.items()]).encode("latin-1")
                await scope["extensions"][WHOLE](answer.status, lines, answer.body, close=self.draining)
                return
            span.set_attribute("http.response.status_code", answer.status_code)
        answer.headers.update(_ALWAYS | named | told | ({"connection": "close"} if self.draining else {}))
        # A stream lasts; its span has told how it began.
        self._admission.streams += 1
        try:
            await answer(scope, receive, send)
        finally:
            self._admission.streams -= 1

    async def _respond(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], request_id: str, span: Span,
        told: dict[str, str],
    ) -> Answer | StreamingResponse:  # fmt: skip
        try:
            return await self._answer(scope, receive, headers, request_id, span, told)
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
        return Answer(status, errors.body(found, status), errors.headers(found))

    async def _answer(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], request_id: str, span: Span,
        told: dict[str, str],
    ) -> Answer | StreamingResponse:  # fmt: skip
        verb, raw_path = scope["method"], scope["raw_path"].decode("latin-1")
        if verb in ("GET", "HEAD") and (page := await self._page(raw_path, headers)) is not None:
            return page
        if verb == "POST" and raw_path == TOKEN_PATH:
            return await self._token(scope, receive, headers)
        if raw_path == agents.PATH:
            return await self._agent(scope, receive, headers, request_id, told)
        route, path_values = routes().find(verb, raw_path)
        if span.is_recording():
            span.update_name(f"{verb} {route.template}")
        if len(headers) != len(scope["headers"]):
            _refuse_doubled(scope)
        timeout_s = _timeout_s(headers)
        reads = not route.method.writes
        caller, body = await self._let_in(receive, headers, told, route.method, request_id)
        query = scope["query_string"].decode("latin-1")
        async with self._admission.gate.enter(caller.tenant, reads=reads):
            request = self._codec.request(route, HttpCall(path_values, query, headers, body))
            if route.method.streams:
                return await self._stream(route, request, caller, headers, request_id)
            answer = await self._proxy.unary(route.method, request, caller, timeout_s, request_id)
            reply = self._codec.reply(route.method, answer)
        return Answer(200, reply.body, {"etag": reply.etag} if reply.etag else {})

    async def _let_in(
        self, receive: Receive, headers: Mapping[str, str], told: dict[str, str], method: Method | None,
        request_id: str,
    ) -> tuple[Caller, bytes]:  # fmt: skip
        """The caller, where there is room and it may go on asking, and the whole body. An agent names no method yet."""
        caller = await self._entrance.caller(headers.get("authorization", ""), method, request_id)
        body = await _read_body(receive, headers)
        self._limits.spend(caller, len(body), told)
        return caller, body

    async def _token(self, scope: Scope, receive: Receive, headers: Mapping[str, str]) -> Answer:
        """An access token, or an error in the form of RFC 6749."""
        _refuse_doubled(scope)
        async with self._admission.gate.enter(TOKEN_PATH):
            body = await _read_body(receive, headers)
            try:
                return _json(200, await self._oauth.answer(headers, body))
            except Refusal as refusal:
                challenge = {"www-authenticate": 'Basic realm="rapport"'} if refusal.status == 401 else {}
                return Answer(refusal.status, msgspec.json.encode(refusal.body), challenge)

    async def _agent(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], request_id: str, told: dict[str, str]
    ) -> Answer:
        """What an agent is told, with the same rights and limits as every caller."""
        if scope["method"] != "POST":
            text = f"{agents.PATH} takes POST only: it keeps no sessions and opens no streams"
            raise Invalid(Reason.REASON_HTTP_METHOD_NOT_ALLOWED, text, metadata={"allow": "POST"})
        _refuse_doubled(scope)
        agents.check_origin(headers, self._public_url)
        caller, body = await self._let_in(receive, headers, told, None, request_id)
        async with self._admission.gate.enter(caller.tenant, reads=True):
            reply = await self._agents.answer(body, headers, caller, _timeout_s(headers), request_id)
        return Answer(reply.status, reply.body, {})

    async def _stream(
        self, route: Route, request: bytes, caller: Caller, headers: Mapping[str, str], request_id: str
    ) -> StreamingResponse:
        async def recheck() -> Caller:
            return await self._authenticator.caller(headers.get("authorization", ""))

        last_event_id = headers.get("last-event-id", "")
        subscription = await self._proxy.subscribe(route.method, request, caller, recheck, request_id, last_event_id)
        lines = sse.events(subscription, self._codec)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _page(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        if path in _FILES:
            name, media = _FILES[path]
            return Answer(200, _page(name), {"content-security-policy": _PAGE_POLICY}, media)
        if path.startswith("/docs/") and (guide := guides.page(path)) is not None:
            return Answer(200, guide, {"content-security-policy": _PAGE_POLICY}, "text/html; charset=utf-8")
        if path in _CONTRACT:
            document, etag = await asyncio.to_thread(_contract, path, self._public_url)
            cached = {"etag": etag, "cache-control": "no-cache"}
            if headers.get("if-none-match") == etag:
                return Answer(304, b"", cached)
            return Answer(200, document, cached, _CONTRACT[path])
        if path == METADATA_PATH:
            return _json(200, self._oauth.tokens.metadata())
        if path == KEYS_PATH:
            return _json(200, self._oauth.tokens.keys())
        if path == "/livez":
            return _json(200, {"status": "alive"})
        if path == "/readyz":
            ready, parts = await self._readiness.parts(draining=self.draining)
            return _json(200 if ready else 503, {"status": "ready" if ready else "not ready", "parts": parts})
        return None


def _json(status: int, value: Any) -> Answer:
    return Answer(status, msgspec.json.encode(value), {})


@lru_cache(maxsize=len(_CONTRACT))
def _contract(path: str, public_url: str) -> tuple[bytes, str]:
    """The contract in one of its forms, made when it is first asked for, and its etag."""
    json = path == "/openapi.json"
    document = openapi.encoded(load(), routes(), public_url) if json else published(load())
    return document, f'"{hashlib.sha256(document).hexdigest()[:16]}"'


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
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return b""
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
