"""Calls as bytes, many at once: what a line needs to push a platform and see exactly what it answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format

from chassis.contract import load
from tests.running import Client

T = TypeVar("T")

# What a call may answer, whatever was sent. Anything else is a fault of ours.
ALLOWED = frozenset({
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED,
})  # fmt: skip
_BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_AGAIN = 5
# The most bytes of metadata that a reply may carry here: forged input comes back in long messages.
_OPTIONS = [("grpc.max_receive_message_length", 16 * 1024 * 1024)]


@dataclass(frozen=True)
class Answer:
    """What came back: the status, its message, and the reply's bytes."""

    code: grpc.StatusCode
    said: str
    data: bytes = b""


class Wire:
    """A connection of one client, inside a running loop: ``async with Wire(client) as wire``."""

    def __init__(self, client: Client, address: str = "") -> None:
        self._metadata = (("authorization", f"Bearer {client.key}"),)
        self._address = address or client.address

    async def __aenter__(self) -> Wire:
        self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, path: str, data: bytes, timeout_s: float = 20) -> Answer:
        """What one call with these bytes answers. Nothing is asked again."""
        call: Any = self._channel.unary_unary(path)
        try:
            return Answer(grpc.StatusCode.OK, "", await call(data, metadata=self._metadata, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            return Answer(error.code(), error.details() or "")

    async def ask(self, path: str, request: dict[str, Any]) -> tuple[grpc.StatusCode, Any]:
        """The status and the reply message of a call; where the platform is busy, it is asked again a little later."""
        method = load().methods[path]
        data = json_format.ParseDict(request, method.request()).SerializeToString()
        answer = await self.send(path, data)
        for attempt in range(_AGAIN):
            if answer.code not in _BUSY:
                break
            await asyncio.sleep(0.05 * 2**attempt)
            answer = await self.send(path, data)
        return answer.code, method.response.FromString(
            answer.data
        ) if answer.code is grpc.StatusCode.OK else answer.said

    async def good(self, path: str, request: dict[str, Any]) -> Any:
        """The reply message of a call that must succeed."""
        code, reply = await self.ask(path, request)
        assert code is grpc.StatusCode.OK, f"{path}: {code} {reply}"
        return reply


async def each(work: Iterable[T], at_once: int, do: Callable[[T], Awaitable[None]]) -> None:
    """Does every piece of work, so many at a time; the first that fails ends it all."""
    left = iter(work)

    async def worker() -> None:
        for piece in left:
            await do(piece)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())


def camel(path: str) -> str:
    """A field's name as google's own JSON writes it in a mask."""
    first, *rest = path.split("_")
    return first + "".join(each.title() for each in rest)
