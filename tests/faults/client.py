"""A client of the API with the settings that clients are told to use, over gRPC and over REST.

At most three attempts inside the first deadline, on UNAVAILABLE alone; every write carries a request id, so that an
attempt which was done after all is not done again. Over HTTP a refused connection is tried again once.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import httpx2

from chassis.errors import from_rpc_error

ATTEMPTS: Final = 3
_OPTIONS: Final = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}),
    ),
]
# Codes after which nobody knows whether the call was done.
_UNKNOWN: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL", "DATA_LOSS"})


class Refused(Exception):
    """The platform said no, and did nothing."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Unknown(Exception):
    """Nobody knows whether it was done."""


class Leak(Exception):
    """An answer held what belongs to another tenant."""


@dataclass(frozen=True)
class Rest:
    """A call over HTTP."""

    verb: str
    path: str
    body: Any = None
    query: Mapping[str, Any] | None = None


class Client:
    """One tenant's client. ``foreign`` are texts that only other tenants' records hold."""

    def __init__(self, url: str, addresses: str, key: str, foreign: list[bytes]) -> None:
        self._channel = grpc.aio.insecure_channel(f"ipv4:{addresses}", options=_OPTIONS)
        self._metadata = grpc.aio.Metadata(("authorization", f"Bearer {key}"))
        self._http = httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self._methods: dict[str, Any] = {}
        self._foreign = foreign

    async def grpc(self, path: str, request: bytes, timeout_s: float, attempts: int = ATTEMPTS) -> bytes:
        """The answer's bytes. Raises Refused, Unknown, or Leak."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        end, unknown = time.monotonic() + timeout_s, ""
        for attempt in range(attempts):
            try:
                answer = await method(request, timeout=max(0.001, end - time.monotonic()), metadata=self._metadata)
                return self._mine(bytes(answer))
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                if code not in _UNKNOWN:
                    if unknown:  # what was refused now may have been done before
                        raise Unknown(f"{code} after {unknown}") from None
                    raise Refused(code, from_rpc_error(error).reason_name) from None
                unknown = f"{code} {error.details()}"
                if code != "UNAVAILABLE" or not await _pause(attempt, end):
                    break
        raise Unknown(unknown)

    async def rest(self, call: Rest, timeout_s: float) -> bytes:
        """The answer's body. Raises Refused, Unknown, or Leak."""
        end, unknown, refused = time.monotonic() + timeout_s, "", False
        for attempt in range(ATTEMPTS):
            left = max(0.001, end - time.monotonic())
            try:
                async with asyncio.timeout(left + 0.5):
                    answer = await self._http.request(
                        call.verb, call.path, json=call.body, params=call.query,
                        headers={"x-server-timeout": f"{left:.3f}"},
                    )  # fmt: skip
            except httpx2.ConnectError as error:
                unknown = unknown or type(error).__name__
                if refused or not await _pause(attempt, end):
                    break
                refused = True
                continue
            except (httpx2.HTTPError, TimeoutError) as error:
                raise Unknown(type(error).__name__) from None
            if answer.is_success:
                return self._mine(answer.content)
            status, reason = _error_of(answer)
            if status not in _UNKNOWN:
                if unknown:
                    raise Unknown(f"{status} after {unknown}")
                raise Refused(status, reason)
            unknown = f"{status} {reason}"
            if status != "UNAVAILABLE" or not await _pause(attempt, end):
                break
        raise Unknown(unknown)

    def _mine(self, answer: bytes) -> bytes:
        for text in self._foreign:
            if text in answer:
                raise Leak(text.decode())
        return answer

    async def close(self) -> None:
        """Closes its connections."""
        await self._channel.close()
        await self._http.aclose()


async def _pause(attempt: int, end: float) -> bool:
    """Waits before another attempt; False where there is no time for one."""
    pause_s = random.uniform(0.5, 1) * 0.1 * 4**attempt
    if time.monotonic() + pause_s > end:
        return False
    await asyncio.sleep(pause_s)
    return True


def _error_of(answer: httpx2.Response) -> tuple[str, str]:
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return "UNKNOWN", f"HTTP {answer.status_code}"
    reasons = [each.get("reason", "") for each in error.get("details", ()) if "reason" in each]
    return error["status"], reasons[0] if reasons else ""
