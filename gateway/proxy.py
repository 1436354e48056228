"""Calls handed on as they are: raw bytes in, raw bytes out. The public gRPC server stands here too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from crm.gateway.v1 import event_pb2
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind

from chassis import context, telemetry
from chassis.clients import MAX_MESSAGE_BYTES, Channels
from chassis.context import Call, Caller, new_request_id
from chassis.contract import Method, load
from chassis.errors import (
    DETAILS_KEY,
    Denied,
    Failure,
    Invalid,
    Reason,
    Unimplemented,
)
from chassis.service import DEFAULT_DEADLINE_S, MAX_DEADLINE_S, Server, StartupError
from gateway import errors
from gateway.admission import Admission
from gateway.audit.reads import ReadLog
from gateway.entrance import Entrance
from gateway.identity.authenticate import Authenticator
from gateway.limits import Limits
from gateway.live.subscription import Ending, Subscription, Subscriptions
from gateway.peer import PEER
from gateway.proposals.methods import check_restraint
from gateway.together import Together

TRACE_KEY = "x-trace-id"
REPLAY_KEY = "x-replay-id"
_INTERNAL = "/crm.internal."
_GRACE_S = 15.0
_HEALTH_S = 1.0
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.max_metadata_size", 7 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]

log = telemetry.logger()


class Proxy:
    """Hands a caller's request on to the service that serves it, or to this process's own services."""

    def __init__(self, server: Server, channels: Channels, subscriptions: Subscriptions, reads: ReadLog) -> None:
        self.reads = reads
        self._server = server
        self._channels = channels
        self._subscriptions = subscriptions
        self._together = Together(load(), self._ask)

    async def unary(
        self, method: Method, request: bytes, caller: Caller, timeout_s: float | None, request_id: str
    ) -> bytes:
        """The reply's bytes, which the log of reads learns of.

        Raises the failure it is answered with, and Denied where an agent would write.
        """
        try:
            check_restraint(method, caller)
            answer = await self._answer(method, request, caller, timeout_s, request_id)
        except Failure as failure:
            self.reads.failed(method, request, failure, caller, request_id)
            raise
        self.reads.answered(method, request, answer, caller, request_id)
        return answer

    async def _answer(
        self, method: Method, request: bytes, caller: Caller, timeout_s: float | None, request_id: str
    ) -> bytes:
        limit = min(DEFAULT_DEADLINE_S if timeout_s is None else timeout_s, MAX_DEADLINE_S)
        call = Call(caller, method.path, time.monotonic() + limit, request_id)
        with context.enter(call):
            if method.home == "gateway":
                metadata = {"traceparent": telemetry.traceparent(), "rapport-request-id": request_id}
                return await self._server.handle(method.path, request, metadata, limit, caller=caller)
            # What has less time than usual must not be held up, nor hurry others.
            if timeout_s is None and self._together.fits(method, request):
                return await self._together.get(method, request)
            return await self._ask(method, request)

    async def _ask(self, method: Method, request: bytes) -> bytes:
        return await self._channels.unary(method.home, method.path, request)

    def refused(self, method: Method, caller: Caller, request_id: str) -> None:
        """Has the log of reads know of a call that was not even made, for want of its permission."""
        self.reads.failed(method, b"", _denied(method), caller, request_id)

    async def subscribe(
        self, method: Method, request: bytes, caller: Caller, recheck: Any, request_id: str, last_event_id: str = ""
    ) -> Subscription:
        """The stream of a subscriber. Raises Denied, Invalid, or Unavailable. The log of reads learns of it."""
        try:
            subscription = await self._subscription(method, request, caller, recheck, last_event_id)
        except Failure as failure:
            self.reads.failed(method, request, failure, caller, request_id)
            raise
        self.reads.answered(method, request, b"", caller, request_id)
        return subscription

    async def _subscription(
        self, method: Method, request: bytes, caller: Caller, recheck: Any, last_event_id: str
    ) -> Subscription:
        if not caller.may(method.permission):
            raise _denied(method)
        try:
            message = event_pb2.SubscribeRequest.FromString(request)
        except DecodeError as error:
            raise Invalid(Reason.REASON_BODY_MALFORMED, "the message is no SubscribeRequest") from error
        if last_event_id:
            message.replay_id = last_event_id
        return await self._subscriptions.open(message, recheck, caller)

    async def health(self, kind: str) -> str:
        """What is wrong with a kind of process; empty where it serves."""
        try:
            check: Any = self._channels.channel(kind).unary_unary(
                "/grpc.health.v1.Health/Check", response_deserializer=health_pb2.HealthCheckResponse.FromString
            )
            answer: Any = await check(b"", timeout=_HEALTH_S)
        except grpc.aio.AioRpcError as error:
            return f"does not answer ({error.code().name})"
        except Failure as failure:
            return failure.message
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return "" if serving else "does not serve now"


class GrpcDoor:
    """The public gRPC server: every public method, with health and reflection."""

    def __init__(
        self, proxy: Proxy, authenticator: Authenticator, entrance: Entrance, server: Server, admission: Admission,
        limits: Limits,
    ) -> None:  # fmt: skip
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=2_000)
        self._server.add_generic_rpc_handlers((_Handlers(proxy, authenticator, entrance, server, admission, limits),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [name for name in load().services if not f"/{name}".startswith(_INTERNAL)]
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server, pool=load().pool)

    async def start(self, address: str) -> None:
        """Listens. Raises StartupError where the address is taken."""
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(f"{address} cannot be listened on") from error
        await self._server.start()
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """NOT_SERVING: clients that watch health send their next call elsewhere."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self) -> None:
        """Waits for the calls under way."""
        await self._server.stop(_GRACE_S)

    async def _set(self, status: Any) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


class _Handlers(grpc.GenericRpcHandler):
    """Every method on raw bytes, known from the contract alone."""

    def __init__(
        self, proxy: Proxy, authenticator: Authenticator, entrance: Entrance, server: Server, admission: Admission,
        limits: Limits,
    ) -> None:  # fmt: skip
        self._proxy = proxy
        self._admission = admission
        self._limits = limits
        self._authenticator = authenticator
        self._entrance = entrance
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of any path; one that does not exist answers UNIMPLEMENTED with a reason."""
        path = str(details.method)
        if path.startswith(("/grpc.health.", "/grpc.reflection.")):
            return None
        method = load().methods.get(path)
        if method is not None and method.streams:
            streaming = method

            async def stream(request: bytes, call: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
                async for response in self._stream(streaming, request, call):
                    yield response

            return grpc.unary_stream_rpc_method_handler(stream)

        async def unary(request: bytes, call: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            told: dict[str, str] = {}
            return await _answered(path, call, self._unary(path, method, request, call, told), told)

        return grpc.unary_unary_rpc_method_handler(unary)

    async def _unary(
        self, path: str, method: Method | None, request: bytes, call: grpc.aio.ServicerContext[bytes, bytes],
        told: dict[str, str],
    ) -> bytes:  # fmt: skip
        metadata = _metadata(call)
        PEER.set(call.peer())
        if path.startswith(_INTERNAL):
            # From another service, with a token of its own; clients hold none.
            return await self._server.handle(path, request, metadata, call.time_remaining())
        if method is None:
            raise Unimplemented(Reason.REASON_METHOD_UNKNOWN, "there is no such method")
        request_id = new_request_id()
        caller = await self._entrance.caller(metadata.get("authorization", ""), method, request_id)
        self._limits.spend(caller, len(request), told)
        async with self._admission.gate.enter(caller.tenant, reads=not method.writes):
            return await self._proxy.unary(method, request, caller, call.time_remaining(), request_id)

    async def _stream(
        self, method: Method, request: bytes, call: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        metadata = _metadata(call)
        PEER.set(call.peer())
        authorization = metadata.get("authorization", "")

        async def recheck() -> Caller:
            return await self._authenticator.caller(authorization)

        told: dict[str, str] = {}
        with telemetry.span(method.path, kind=SpanKind.SERVER, parent=metadata.get("traceparent", "")):
            trace_id, request_id = telemetry.trace_id(), new_request_id()
            try:
                caller = await recheck()
                self._limits.spend(caller, len(request), told)
                subscription = await self._proxy.subscribe(method, request, caller, recheck, request_id)
            except Failure as failure:
                self._proxy.reads.turned_away(method, failure, request_id)
                await _abort(call, failure, trace_id, told)
                return
        await call.send_initial_metadata(((TRACE_KEY, trace_id),))
        try:
            async with aclosing(aiter(subscription)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response.SerializeToString()
        except Ending as ending:
            await _abort(call, ending.failure, trace_id, {REPLAY_KEY: ending.replay_id} if ending.replay_id else {})


def _denied(method: Method) -> Denied:
    text = f"this needs the permission '{method.permission}'"
    return Denied(Reason.REASON_PERMISSION_DENIED, text, metadata={"permission": method.permission})


async def _answered(
    path: str, call: grpc.aio.ServicerContext[Any, Any], work: Awaitable[bytes], told: dict[str, str]
) -> bytes:
    """The reply of a call inside its root span, or its failure as status, message and details."""
    parent = _metadata(call).get("traceparent", "")
    with telemetry.span(path.lstrip("/"), kind=SpanKind.SERVER, parent=parent) as span:
        trace_id = telemetry.trace_id()
        try:
            reply = await work
        except Failure as failure:
            telemetry.fail(span, failure)
            found = failure
        except asyncio.CancelledError:
            raise
        except Exception as error:
            telemetry.fail(span, error)
            found = errors.internal(error)
        else:
            call.set_trailing_metadata(((TRACE_KEY, trace_id), *told.items()))
            return reply
    await _abort(call, found, trace_id, told)
    raise found  # abort raises; this is for the reader


async def _abort(
    call: grpc.aio.ServicerContext[Any, Any], failure: Failure, trace_id: str, more: Mapping[str, str]
) -> None:
    status = failure.status().SerializeToString()
    call.set_trailing_metadata(((DETAILS_KEY, status), (TRACE_KEY, trace_id), *more.items()))
    await call.abort(failure.code, failure.message)


def _metadata(call: grpc.aio.ServicerContext[Any, Any]) -> Mapping[str, str]:
    return {str(key): value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
