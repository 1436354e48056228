"""The way out reaches the public internet alone: whatever is written in the URL, or answered by the name."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.outbound import NoAnswer, Outbound, Refused, is_public

CLOSED = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254 172.16.0.1 172.31.255.255
192.0.0.170 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.9 224.0.0.1 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1
2001:db8::1 2002:7f00:1:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
"""


@pytest.mark.parametrize("text", CLOSED.split())
def test_special_addresses_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_hosts_of_the_internet_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://localhost/", "https://2130706433/", "https://0x7f000001/", "https://127.1/",
        "https://①②⑦.⓪.⓪.①/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/",
        "https://169.254.169.254/latest/meta-data/", "https://0/", "https://[fe80::1%25lo]/", "https://10.0.0.1/",
        "http://example.com/", "https://example.com:22/", "https://a:b@example.com/", "file:///etc/passwd",
        "ftp://example.com/", "https://", "https:///x", "//example.com", "", "https://exa mple.com/",
        "https://example.com/" + "x" * 3000, "gopher://127.0.0.1:70/", "https://[", "https://\x00/",
    ],
)  # fmt: skip
async def test_no_url_leads_inside(url: str) -> None:
    with pytest.raises((Refused, NoAnswer)) as refusal:
        await Outbound().fetch("GET", url, timeout_s=5)
    if "127" in url or "ffff" in url or "169.254" in url:
        assert isinstance(refusal.value, Refused)


@asynccontextmanager
async def server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server on loopback; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def test_a_trusted_name_may_be_loopback_and_nothing_else_may() -> None:
    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello")
        await writer.drain()

    async with server(hello) as port:
        way = Outbound("localhost")
        answer = await way.fetch("GET", f"http://localhost:{port}/")
        assert (answer.status, answer.body, answer.truncated, answer.headers["x-a"]) == (200, b"hello", False, "b")
        with pytest.raises(Refused):
            await way.fetch("GET", f"http://127.0.0.1:{port}/")
    with pytest.raises(Refused):
        await Outbound("10.0.0.1").fetch("GET", "https://10.0.0.1/")


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with server(redirect) as port:
        answer = await Outbound("localhost").fetch("POST", f"http://localhost:{port}/", body=b"x")
        assert answer.status == 302


async def test_an_endless_answer_is_cut_and_a_silent_one_given_up() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(endless) as port:
        answer = await Outbound("localhost").fetch("GET", f"http://localhost:{port}/", max_bytes=1000)
        assert (len(answer.body), answer.truncated) == (1000, True)
    async with server(silent) as port:
        with pytest.raises(NoAnswer):
            await Outbound("localhost").fetch("GET", f"http://localhost:{port}/", timeout_s=0.3)
