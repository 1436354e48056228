"""The proxies between the parts of a stand do what the nemesis says, to old connections and to new ones."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from deploy.local import ports
from tests.faults.proxy import CUT, DELAY, HOLE, PASS, Edge

SOON_S = 5.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Caller:
    """A client of an edge, and all the connections that it made."""

    edge: Edge
    made: list[Streams] = field(default_factory=list)

    async def connect(self) -> Streams:
        self.made.append(await asyncio.open_connection("127.0.0.1", self.edge.port))
        return self.made[-1]

    async def greeted(self) -> Streams:
        reader, writer = await self.connect()
        assert await asyncio.wait_for(reader.readline(), SOON_S) == b"hello\n"
        return reader, writer


@asynccontextmanager
async def an_echo_behind_a_proxy() -> AsyncIterator[Caller]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"hello\n")
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    caller = Caller(Edge("a>b", ports.free(), server.sockets[0].getsockname()[1]))
    await caller.edge.listen()
    try:
        yield caller
    finally:
        await caller.edge.set(PASS, 0, 0)
        for _, writer in caller.made:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await caller.edge.set(CUT, 0, 0)
        server.close()


async def said(streams: Streams, line: bytes) -> bytes:
    reader, writer = streams
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), SOON_S)


async def test_what_is_said_at_once_arrives_on_both_sides() -> None:
    async with an_echo_behind_a_proxy() as caller:
        for _ in range(50):
            reader, writer = await caller.connect()
            writer.write(b"early\n")
            assert await asyncio.wait_for(reader.readline(), SOON_S) == b"hello\n"
            assert await asyncio.wait_for(reader.readline(), SOON_S) == b"early\n"


async def test_a_cut_resets_and_refuses_until_it_is_mended() -> None:
    async with an_echo_behind_a_proxy() as caller:
        streams = await caller.greeted()
        await caller.edge.set(CUT, 0, 0)
        with pytest.raises(ConnectionResetError):
            await said(streams, b"lost\n")
        with pytest.raises(ConnectionRefusedError):
            await caller.connect()
        await caller.edge.set(PASS, 0, 0)
        assert await said(await caller.greeted(), b"back\n") == b"back\n"


async def test_a_hole_swallows_in_silence_and_what_was_sent_arrives_when_it_closes() -> None:
    async with an_echo_behind_a_proxy() as caller:
        old = await caller.greeted()
        await caller.edge.set(HOLE, 0, 0)
        old[1].write(b"late\n")
        new = await caller.connect()
        waiting = [asyncio.ensure_future(reader.readline()) for reader, _ in (old, new)]
        done, _ = await asyncio.wait(waiting, timeout=0.2)
        assert not done
        await caller.edge.set(PASS, 0, 0)
        assert await asyncio.wait_for(asyncio.gather(*waiting), SOON_S) == [b"late\n", b"hello\n"]


async def test_a_delay_keeps_the_order() -> None:
    async with an_echo_behind_a_proxy() as caller:
        reader, writer = await caller.greeted()
        await caller.edge.set(DELAY, 20, 19)
        for number in range(30):
            writer.write(b"%d\n" % number)
            await asyncio.sleep(0)
        found = [await asyncio.wait_for(reader.readline(), SOON_S) for _ in range(30)]
        assert found == [b"%d\n" % number for number in range(30)]
