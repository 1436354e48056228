"""Calls to other processes: one channel a kind, with load balancing, health, retries, token, trace and deadline."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

import grpc
from opentelemetry.trace import SpanKind

from chassis import context, contract, telemetry
from chassis.access import ACCESS_KEY
from chassis.context import Caller
from chassis.errors import Cancelled, DeadlineExceeded, Reason, Unavailable, from_rpc_error
from chassis.settings import Settings
from chassis.tokens import Signer

R = TypeVar("R")
# Each hop leaves the caller this much to answer in, in seconds.
HOP_MARGIN_S: Final = 0.02
# The pauses before a call that found nobody is made again.
_AGAIN_S: Final = (0.05, 0.2, 0.6)
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_METADATA_BYTES: Final = 128 * 1024
# An answer may be a page of a thousand records.
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024

_OPTIONS: Final = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Keepalive alone noticed a stopped peer after a minute; with this it takes seconds.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
]


class Channels:
    """The channels of one process. Calls go as the current caller, with this process as the one that acts."""

    def __init__(self, settings: Settings, signer: Signer) -> None:
        self._settings = settings
        self._signer = signer
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._methods: dict[tuple[str, str], Any] = {}

    def channel(self, kind: str) -> grpc.aio.Channel:
        """The channel to a kind of process. Raises Unavailable where its address is not set."""
        if kind not in self._channels:
            address = self._settings.addresses(kind)
            if not address:
                raise Unavailable(Reason.REASON_UNAVAILABLE, f"RAPPORT_{kind.upper()}_ADDRESS is not set")
            target = address if "://" in address or address.startswith("dns:") else f"ipv4:{address}"
            self._channels[kind] = grpc.aio.insecure_channel(
                target, options=[*_OPTIONS, ("grpc.service_config", _SERVICE_CONFIG)]
            )
        return self._channels[kind]

    async def unary(
        self,
        kind: str,
        path: str,
        request: bytes,
        *,
        caller: Caller | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Calls a method on raw bytes, again where nobody answered and a repetition can do no harm.

        Raises the Failure that the service answered with, or Unavailable.
        """
        call = context.current_or_none()
        who = caller or _on_behalf(call, self._signer.kind)
        left = timeout_s if timeout_s is not None else (call.remaining_s() - HOP_MARGIN_S if call else 10.0)
        end = time.monotonic() + left
        with telemetry.span(path[1:], kind=SpanKind.CLIENT, attributes={"rpc.system": "grpc", "server": kind}):
            sent: tuple[tuple[str, str | bytes], ...] = (
                ("authorization", f"Bearer {self._signer.token(kind, who)}"),
                ("traceparent", telemetry.traceparent()),
                ("rapport-request-id", call.request_id if call else ""),
                *(metadata or {}).items(),
                *(((ACCESS_KEY, who.access.encoded),) if who.access is not None else ()),
            )
            for pause_s in _AGAIN_S:
                try:
                    return await self._once(kind, path, request, sent, end)
                except (Unavailable, Cancelled):
                    if end - time.monotonic() < 2 * pause_s or not _may_repeat(path, request):
                        raise
                await asyncio.sleep(random.uniform(0.5, 1) * pause_s)
            return await self._once(kind, path, request, sent, end)

    async def _once(
        self, kind: str, path: str, request: bytes, sent: tuple[tuple[str, str | bytes], ...], end: float
    ) -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(Reason.REASON_DEADLINE_EXCEEDED, "no time was left to ask another service")
        try:
            method = self._methods.get((kind, path))
            if method is None:
                method = self._methods[kind, path] = self.channel(kind).unary_unary(path)
            return await method(request, timeout=left, metadata=sent)  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def call(
        self, path: str, request: Any, response: Callable[[bytes], R], *, kind: str | None = None,
        caller: Caller | None = None, timeout_s: float | None = None,
    ) -> R:  # fmt: skip
        """Calls a method with a message; ``response`` parses the answer, for example ``pb.Deal.FromString``."""
        home = kind or contract.load().methods[path].home
        answer = await self.unary(home, path, request.SerializeToString(), caller=caller, timeout_s=timeout_s)
        return response(answer)

    async def close(self) -> None:
        """Closes every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._methods.clear()


def service_caller(kind: str, tenant: Any) -> Caller:
    """The caller as which a service acts by itself in a tenant."""
    return Caller(tenant=tenant, principal=f"service:{kind}", scopes=frozenset({"*", "internal.*"}), issuer=kind)


def _on_behalf(call: context.Call | None, kind: str) -> Caller:
    if call is None:
        raise LookupError("a call to another service needs a caller")
    who, act = call.caller, "" if kind == "gateway" else kind
    if who.issuer == kind and who.act == act and who.cause == call.cause_event_id:
        return who
    return replace(who, issuer=kind, act=act, cause=call.cause_event_id)


def _may_repeat(path: str, request: bytes) -> bool:
    """Whether a call may be made twice: it reads, or it carries a request id."""
    method = contract.load().methods[path]
    return not method.writes or bool(getattr(method.request.FromString(request), "request_id", ""))


# round_robin with health checks. Calls are repeated by `unary`, which knows those that carry a request id.
_SERVICE_CONFIG: Final = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)
