"""An API key is looked up once for all calls that wait for it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from chassis.context import Caller
from chassis.errors import Reason, Unauthenticated
from gateway.identity.authenticate import Authenticator

KEY = "Bearer rap_12345678_secret"
ANN = Caller(UUID(int=1), "user_ann", frozenset({"*"}), "gateway")


class Looking(Authenticator):
    """Counts how often it looks, and takes its time."""

    def __init__(self, found: Caller | Unauthenticated) -> None:
        nowhere: Any = None
        super().__init__(nowhere)
        self.looks = 0
        self._found = found

    async def _look_up(self, digest: bytes) -> Caller:
        self.looks += 1
        for _ in range(3):
            await asyncio.sleep(0)
        if isinstance(self._found, Unauthenticated):
            raise self._found
        return self._found


def test_calls_that_come_together_look_once() -> None:
    async def work() -> None:
        door = Looking(ANN)
        assert await asyncio.gather(*[door.caller(KEY) for _ in range(10)]) == [ANN] * 10
        assert await door.caller(KEY) == ANN
        assert door.looks == 1

    asyncio.run(work())


def test_a_refusal_reaches_all_of_them_and_is_not_kept() -> None:
    async def work() -> None:
        door = Looking(Unauthenticated(Reason.REASON_UNAUTHENTICATED, "unknown"))
        answers = await asyncio.gather(*[door.caller(KEY) for _ in range(10)], return_exceptions=True)
        assert all(isinstance(each, Unauthenticated) for each in answers)
        with pytest.raises(Unauthenticated):
            await door.caller(KEY)
        assert door.looks == 2

    asyncio.run(work())


def test_a_caller_who_goes_away_does_not_end_it_for_the_others() -> None:
    async def work() -> None:
        door = Looking(ANN)
        first = asyncio.ensure_future(door.caller(KEY))
        second = asyncio.ensure_future(door.caller(KEY))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ANN
        assert door.looks == 1

    asyncio.run(work())
