"""Reads that wait at the same moment go together, and each is answered as if it had gone alone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

from crm.internal.v1 import access_pb2

from chassis import context, ids
from chassis.access import Access
from chassis.context import Call, Caller
from chassis.contract import Method, load
from chassis.errors import Failure, Invalid, NotFound, Reason, Unavailable
from gateway.together import Together

GET = load().methods["/crm.contacts.v1.ContactService/GetContact"]
BATCH = load().methods["/crm.contacts.v1.ContactService/BatchGetContacts"]
ANN = Caller(UUID(int=1), "user_ann", frozenset({"*"}))
BOB = Caller(UUID(int=2), "user_bob", frozenset({"*"}))
KNOWN = [ids.encode("contact", UUID(int=number)) for number in range(20)]
MISSING = ids.encode("contact", UUID(int=999))


class Contacts:
    """Answers as the service of contacts does; ``held`` calls wait until they are let go."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []
        self.callers: list[Caller] = []
        self.held: list[asyncio.Event] = []
        self.down = False

    async def ask(self, method: Method, request: bytes) -> bytes:
        message: Any = method.request.FromString(request)
        wanted = [message.id] if method is GET else list(message.ids)
        self.callers.append(context.current().caller)
        self.asked.append((context.current().caller.principal, method.name, wanted))
        if len(self.asked) <= len(self.held):
            await self.held[len(self.asked) - 1].wait()
        if self.down:
            raise Unavailable(Reason.REASON_UNAVAILABLE, "away")
        if "none" in wanted:
            raise Invalid(Reason.REASON_ID_INVALID, "'id': it is none")
        reply: Any = method.response()
        if method is GET:
            if message.id == MISSING:
                raise _missing(message.id)
            reply.id = message.id
        else:
            for each in wanted:
                result = reply.results.add()
                if each == MISSING:
                    result.status.MergeFromString(_missing(each).status().SerializeToString())
                else:
                    result.contact.id = each
        return bytes(reply.SerializeToString())


def _missing(text: str) -> NotFound:
    return NotFound(Reason.REASON_NOT_FOUND, f"there is no contact '{text}'", metadata={"id": text})


async def _read(together: Together, record_id: str, caller: Caller = ANN) -> str:
    """What a reader is told: the id of the record, or the failure's message."""
    request = GET.request(id=record_id).SerializeToString()
    assert together.fits(GET, request)
    with context.enter(Call(caller, GET.path, time.monotonic() + 10)):
        try:
            answer: Any = GET.response.FromString(await together.get(GET, request))
        except Failure as failure:
            return failure.message
    return str(answer.id)


def _run(reads: list[tuple[str, Caller]], service: Contacts, *, hold: int = 2, let_go: bool = True) -> list[str]:
    """The answers to reads of which the first ``hold`` are under way when the others begin, all in one turn."""

    async def work() -> list[str]:
        service.held = [asyncio.Event() for _ in range(hold)]
        together = Together(load(), service.ask)
        started: list[asyncio.Task[str]] = []
        for number, each in enumerate(reads):
            started.append(asyncio.create_task(_read(together, *each)))
            while number < hold and len(service.asked) <= number:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not let_go:
            await asyncio.wait(started[hold:])
        for event in service.held:
            event.set()
        return await asyncio.gather(*started)

    return asyncio.run(asyncio.wait_for(work(), 10))


def test_what_comes_while_calls_are_under_way_goes_in_one_call() -> None:
    service = Contacts()
    assert _run([(each, ANN) for each in KNOWN], service) == KNOWN
    assert [name for _, name, _ in service.asked] == ["GetContact", "GetContact", "BatchGetContacts"]
    assert service.asked[2][2] == KNOWN[2:]


def test_what_comes_in_one_turn_of_the_loop_goes_in_one_call() -> None:
    service = Contacts()
    assert _run([(each, ANN) for each in KNOWN], service, hold=0) == KNOWN
    assert service.asked == [(ANN.principal, "BatchGetContacts", KNOWN)]


def test_nothing_is_asked_for_those_who_have_gone() -> None:
    async def work() -> list[list[str]]:
        service = Contacts()
        together = Together(load(), service.ask)
        for stay in (KNOWN[0], KNOWN[1]):
            reads = {each: asyncio.create_task(_read(together, each)) for each in KNOWN}
            await asyncio.sleep(0)
            for each, read in reads.items():
                if each != stay:
                    read.cancel()
            assert await reads[stay] == stay
        gone = asyncio.create_task(_read(together, KNOWN[2]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert await _read(together, KNOWN[3]) == KNOWN[3]
        return [wanted for _, _, wanted in service.asked]

    assert asyncio.run(asyncio.wait_for(work(), 10)) == [[KNOWN[0]], [KNOWN[1]], [KNOWN[3]]]


def test_each_is_answered_as_if_it_had_gone_alone() -> None:
    wanted = [*KNOWN[:3], MISSING, KNOWN[3], "none", KNOWN[3]]
    alone = [_run([(each, ANN)], Contacts())[0] for each in wanted]
    assert _run([(each, ANN) for each in wanted], Contacts()) == alone
    assert alone[3] == f"there is no contact '{MISSING}'"
    assert alone[5] == "'id': it is none"


def test_callers_are_never_mixed() -> None:
    service = Contacts()
    mixed = [(each, (ANN, BOB)[index % 2]) for index, each in enumerate(KNOWN)]
    assert _run(mixed, service, hold=4) == KNOWN
    for principal, _, wanted in service.asked:
        assert {caller.principal for each, caller in mixed if each in wanted} == {principal}


def test_one_user_is_never_mixed_with_itself_under_other_rules() -> None:
    service = Contacts()
    ruled = replace(ANN, access=Access(access_pb2.Access(default_visibility=access_pb2.VISIBILITY_OWN)))
    mixed = [(each, (ANN, ruled)[index % 2]) for index, each in enumerate(KNOWN)]
    assert _run(mixed, service, hold=4) == KNOWN
    for caller, (_, _, wanted) in zip(service.callers, service.asked, strict=True):
        assert {asker for each, asker in mixed if each in wanted} == {caller}


def test_a_call_that_hangs_holds_nobody_up() -> None:
    assert _run([(each, ANN) for each in KNOWN], Contacts(), let_go=False) == KNOWN


def test_a_failure_reaches_everyone_who_waited() -> None:
    service = Contacts()
    service.down = True
    assert _run([(each, ANN) for each in KNOWN], service) == ["away"] * len(KNOWN)


def test_more_than_an_id_goes_alone() -> None:
    together = Together(load(), Contacts().ask)
    plain: Any = GET.request(id=KNOWN[0])
    masked: Any = GET.request(id=KNOWN[0])
    masked.read_mask.paths.append("id")
    assert together.fits(GET, plain.SerializeToString())
    assert not together.fits(GET, masked.SerializeToString())
    assert not together.fits(GET, b"")
    assert not together.fits(BATCH, BATCH.request(ids=[KNOWN[0]]).SerializeToString())
