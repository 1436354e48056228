"""Many calls in one: each as it would have been by itself, all under one deadline."""

from __future__ import annotations

import asyncio
import time
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec
from crm.gateway.v1 import batch_pb2 as pb

from chassis import telemetry
from chassis.context import Call
from chassis.errors import DeadlineExceeded, Exhausted, Failure, Invalid, Reason, invalid
from chassis.service import Service, saga
from gateway import errors
from gateway.admission import Admission
from gateway.contract import Route, routes
from gateway.limits import Limits
from gateway.proxy import Proxy
from gateway.transcode import BODY_LIMIT, HttpCall, Transcoder, exact

BATCH: Final = "/crm.gateway.v1.BatchService/Batch"
_HEADERS: Final = ("if-match", "idempotency-key")
# How many reads of a batch are under way at the same time.
_AT_ONCE: Final = 8
# The share of the batch's time that its calls get, so that what they answered can still be told.
_SHARE: Final = 0.9


class Door(NamedTuple):
    """The ways of a call that comes by itself: what it costs, its place, its transcoding, and where it goes."""

    limits: Limits
    admission: Admission
    codec: Transcoder
    proxy: Proxy


class _Item(NamedTuple):
    call: pb.BatchCall
    # None where the call has failed already.
    route: Route | None
    values: dict[str, str]
    failure: Failure | None

    @property
    def writes(self) -> bool:
        return self.route is not None and self.route.method.writes


class Batches(Service, serves="crm.gateway.v1.BatchService"):
    """Makes calls that came together."""

    door: Door

    @saga
    async def Batch(self, request: pb.BatchRequest, call: Call) -> pb.BatchResponse:
        """Answers each call: reads side by side at the same time, each write by itself."""
        return await _Run(self.door, call).answers([_item(each) for each in request.calls])


class _Run:
    """The calls of one batch under way."""

    def __init__(self, door: Door, call: Call) -> None:
        self._door = door
        self._call = call
        self._end = time.monotonic() + call.remaining_s() * _SHARE
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._left = BODY_LIMIT

    async def answers(self, items: list[_Item]) -> pb.BatchResponse:
        """An answer for each, in their order."""
        response = pb.BatchResponse()
        for writes, group in groupby(items, key=lambda item: item.writes):
            if writes:
                for item in group:
                    response.replies.append(await self._answer(item))
            else:
                response.replies.extend(await asyncio.gather(*(self._answer(item) for item in group)))
        return response

    async def _answer(self, item: _Item) -> pb.BatchReply:
        name = f"{item.call.method} {item.route.template}" if item.route else "no method"
        async with self._places:
            with telemetry.span(name) as span:
                try:
                    body, headers = await self._made(item)
                except Failure as failure:
                    telemetry.fail(span, failure)
                    found = failure
                except Exception as error:
                    telemetry.fail(span, error)
                    found = errors.internal(error, self._call.request_id)
                else:
                    return _reply(200, body, headers)
        status = errors.http_status(found, if_match="if-match" in _lower(item.call.headers))
        return _reply(status, errors.body(found, status), errors.headers(found))

    async def _made(self, item: _Item) -> tuple[bytes, dict[str, str]]:
        if item.failure is not None or item.route is None:
            raise item.failure or Invalid(Reason.REASON_METHOD_UNKNOWN, "there is no such method")
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(Reason.REASON_DEADLINE_EXCEEDED, "the batch's time was over before its turn came")
        door, caller = self._door, self._call.caller
        http_call = self._http_call(item)
        door.limits.spend(caller, len(http_call.body), {})
        async with door.admission.gate.enter(caller.tenant, reads=not item.writes):
            request = door.codec.request(item.route, http_call)
            answer = await door.proxy.unary(item.route.method, request, caller, left, self._call.request_id)
            reply = door.codec.reply(item.route.method, answer)
        # What a write answers is told in any case: it has happened.
        if len(reply.body) > self._left and not item.writes:
            text = f"the answers of this batch are larger than {BODY_LIMIT} bytes; ask for less, or by itself"
            raise Exhausted(Reason.REASON_TOO_LARGE, text)
        self._left -= len(reply.body)
        return reply.body, {"etag": reply.etag} if reply.etag else {}

    def _http_call(self, item: _Item) -> HttpCall:
        headers, body = _lower(item.call.headers), b""
        if item.call.HasField("body"):
            headers["content-type"] = "application/json"
            body = self._door.codec.json(item.call.body)
        return HttpCall(item.values, item.call.path.partition("?")[2], headers, body)


def _item(call: pb.BatchCall) -> _Item:
    try:
        route, values = routes().find(call.method, call.path.partition("?")[0])
        if route.method.streams or route.method.path == BATCH:
            raise invalid("path", "streams and batches are called by themselves")
        for name in _lower(call.headers):
            if name not in _HEADERS:
                raise invalid("headers", "a call in a batch may have If-Match and Idempotency-Key only")
        if not exact(call.body):
            raise invalid("body", "an integer of more than 53 bits stands in quotes in a batch")
    except Failure as failure:
        return _Item(call, None, {}, failure)
    return _Item(call, route, values, None)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _reply(status: int, body: bytes, headers: dict[str, str]) -> pb.BatchReply:
    reply = pb.BatchReply(status=status, headers=headers)
    reply.body.update(msgspec.json.decode(body))
    return reply
