"""Reads of single records that wait at the same moment are asked for together.

One call to a service costs several times what one record costs, so a caller who reads many records at once is served
by BatchGet calls behind the door. Nobody waits for company that may come: those go together that arrived in one turn of
the event loop, or while two calls before them are under way. What each is answered is what it would be answered alone.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.rpc import status_pb2

from chassis import context, telemetry
from chassis.context import Caller
from chassis.contract import Contract, Method
from chassis.errors import Failure, Invalid, from_status

# Calls under way for one caller and one method before the next ones wait.
_AT_ONCE = 2
# Nobody waits longer than this, in seconds, for a call that is slow.
_PATIENCE_S = 0.02
_MOST = 100

Ask = Callable[[Method, bytes], Awaitable[bytes]]


class _Waiting(NamedTuple):
    request: bytes
    answer: asyncio.Future[bytes]
    # Whose call it is: the calls that go together go in the name of the first.
    context: contextvars.Context


@dataclass
class _Line:
    method: Method
    under_way: int = 0
    waiting: list[_Waiting] = field(default_factory=list)
    sending: asyncio.Handle | None = None


class Together:
    """Asks for records through ``ask``, one by one while few are wanted and many at a time otherwise."""

    def __init__(self, contract: Contract, ask: Ask) -> None:
        self._ask = ask
        self._batches = _batches(contract)
        self._lines: dict[tuple[str, Caller], _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def fits(self, method: Method, request: bytes) -> bool:
        """Whether a call may go with others: it reads the record of an id, as it is now, and nobody traces it.

        A recorded trace shows its own call to the service, so a traced call goes alone.
        """
        return (
            method.path in self._batches
            and len(request) < 130
            and request[:1] == b"\x0a"  # field 1, the id, and nothing after it
            and request[1] == len(request) - 2
            and not telemetry.recording()
        )

    async def get(self, method: Method, request: bytes) -> bytes:
        """The record's bytes. Raises the failure that the service answered with."""
        key = (method.path, context.current().caller)
        line = self._lines.setdefault(key, _Line(method))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        line.waiting.append(_Waiting(request, answer, contextvars.copy_context()))
        if len(line.waiting) >= _MOST:
            self._send(key, line)
        elif len(line.waiting) == 1 and line.under_way < _AT_ONCE:
            # After what this turn of the loop has still to do: more requests may have been read from other sockets.
            line.sending = loop.call_soon(self._send, key, line)
        elif len(line.waiting) == 1:
            line.sending = loop.call_later(_PATIENCE_S, self._send, key, line)
        return await answer

    def _left(self, key: tuple[str, Caller], line: _Line) -> None:
        line.under_way -= 1
        if line.waiting:
            self._send(key, line)
        else:
            self._leave(key, line)

    def _leave(self, key: tuple[str, Caller], line: _Line) -> None:
        if not line.under_way:
            self._lines.pop(key, None)

    def _send(self, key: tuple[str, Caller], line: _Line) -> None:
        # Those whose client has gone wait no more.
        taken, line.waiting = [each for each in line.waiting if not each.answer.done()], []
        if line.sending is not None:
            line.sending.cancel()
        if not taken:
            self._leave(key, line)
            return
        line.under_way += 1
        task = asyncio.get_running_loop().create_task(self._serve(line.method, taken), context=taken[0].context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._left(key, line))

    async def _serve(self, method: Method, taken: list[_Waiting]) -> None:
        try:
            await (self._many(method, taken) if len(taken) > 1 else self._one(method, taken[0]))
        except Invalid:
            # One of the ids is none, which fails the whole batch: each learns by itself whether it was its own.
            await asyncio.gather(*(self._one(method, each) for each in taken))
        except Failure as failure:
            for each in taken:
                _fail(each, failure.status())
        except Exception as error:
            for each in taken:
                if not each.answer.done():
                    each.answer.set_exception(error)

    async def _one(self, method: Method, one: _Waiting) -> None:
        try:
            answer = await self._ask(method, one.request)
        except Failure as failure:
            _fail(one, failure.status())
        else:
            if not one.answer.done():
                one.answer.set_result(answer)

    async def _many(self, method: Method, taken: list[_Waiting]) -> None:
        batch, name = self._batches[method.path]
        # `id` of the one request and `ids` of the other are field 1, so that requests put together are one request.
        reply: Any = batch.response.FromString(await self._ask(batch, b"".join([each.request for each in taken])))
        for each, result in zip(taken, reply.results, strict=True):
            if result.HasField("status"):
                _fail(each, result.status)
            elif not each.answer.done():
                each.answer.set_result(getattr(result, name).SerializeToString())


def _fail(one: _Waiting, status: Any) -> None:
    """Gives one its own failure: it may be added to on the way out."""
    if not one.answer.done():
        one.answer.set_exception(from_status(status_pb2.Status.FromString(status.SerializeToString())))


def _batches(contract: Contract) -> dict[str, tuple[Method, str]]:
    """By the path of each Get, the BatchGet of the same service and where its results hold the record."""
    found: dict[str, tuple[Method, str]] = {}
    for method in contract.methods.values():
        record = method.descriptor.output_type
        if method.home == "gateway" or method.name != f"Get{record.name}":
            continue
        for batch in contract.methods_of(method.service):
            if batch.name.startswith("BatchGet") and batch.permission == method.permission:
                result: Any = batch.descriptor.output_type.fields_by_name["results"].message_type
                name = next(each.name for each in result.fields if each.message_type is record)
                ids = (
                    method.descriptor.input_type.fields_by_name["id"],
                    batch.descriptor.input_type.fields_by_name["ids"],
                )
                if {each.number for each in ids} == {1}:
                    found[method.path] = batch, name
    return found
