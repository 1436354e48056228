"""A client of the API with the settings that clients are told to use, over gRPC and over REST.

At most three attempts inside the first deadline, after the answers that docs/api.md names; every write carries a
request id, so that an attempt which was done after all is not done again.
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
_AGAIN: Final = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"})
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
        end, unknown, code, reason = time.monotonic() + timeout_s, "", "", ""
        for left in reversed(range(attempts)):
            try:
                answer = await method(request, timeout=max(0.001, end - time.monotonic()), metadata=self._metadata)
                return self._mine(bytes(answer))
            except grpc.aio.AioRpcError as error:
                code, failure = error.code().name, from_rpc_error(error)
                reason, wait_s = failure.reason_name, failure.retry_s
                what = f"{code} {failure.message}"
            unknown = unknown or (what if code in _UNKNOWN else "")
            if code not in _AGAIN or not left or not await _pause(attempts - left, end, wait_s):
                break
        if unknown:  # what was refused in the end may have been done before
            raise Unknown(unknown)
        raise Refused(code, reason)

    async def rest(self, call: Rest, timeout_s: float) -> bytes:
        """The answer's body. Raises Refused, Unknown, or Leak."""
        end, unknown, code, reason = time.monotonic() + timeout_s, "", "", ""
        for left in reversed(range(ATTEMPTS)):
            try:
                code, reason, wait_s, content = await self._request(call, max(0.001, end - time.monotonic()))
            except TimeoutError:
                raise Unknown("no answer in time") from None
            if not code:
                return self._mine(content)
            unknown = unknown or (f"{code} {reason}" if code in _UNKNOWN else "")
            if code not in _AGAIN or not left or not await _pause(ATTEMPTS - left, end, wait_s):
                break
        if unknown:
            raise Unknown(unknown)
        raise Refused(code, reason)

    async def _request(self, call: Rest, left_s: float) -> tuple[str, str, float | None, bytes]:
        """The answer's status (empty where it is good), its reason, when to come again, and its body."""
        try:
            async with asyncio.timeout(left_s + 0.5):
                answer = await self._http.request(
                    call.verb, call.path, json=call.body, params=call.query,
                    headers={"x-server-timeout": f"{left_s:.3f}"},
                )  # fmt: skip
        except httpx2.HTTPError as error:  # refused, or ended before an answer
            return "UNAVAILABLE", type(error).__name__, None, b""
        if answer.is_success:
            return "", "", None, answer.content
        status, reason = _error_of(answer)
        return status, reason, float(answer.headers.get("retry-after") or 0) or None, b""

    def _mine(self, answer: bytes) -> bytes:
        for text in self._foreign:
            if text in answer:
                raise Leak(text.decode())
        return answer

    async def close(self) -> None:
        """Closes its connections."""
        await self._channel.close()
        await self._http.aclose()


async def _pause(attempt: int, end: float, asked_s: float | None) -> bool:
    """Waits before another attempt, as the answer asks; False where there is no time for one."""
    pause_s = asked_s or random.uniform(0.5, 1) * 0.1 * 4 ** (attempt - 1)
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
