"""The one way out to an address that a client gave us: it reaches nothing but the public internet."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final, NamedTuple

import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

URL_LIMIT: Final = 2048
_PORTS: Final = (443, 8443)
_CONNECT_S: Final = 5.0
# An answer whose name has more addresses than these is not tried further.
_TRIED: Final = 3
# Names that never resolve must not use up the threads that others wait for.
_RESOLVERS: Final = ThreadPoolExecutor(8, "resolve")

# The special-purpose addresses of RFC 6890 and its registry, multicast, and the metadata service of one cloud.
# Python's own `is_global` lets some of them through.
_CLOSED_4: Final = [
    ipaddress.IPv4Network(each)
    for each in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
# Global unicast is 2000::/3; closed in it are Teredo and the other protocol assignments, documentation and 6to4.
_UNICAST_6: Final = ipaddress.IPv6Network("2000::/3")
_CLOSED_6: Final = [ipaddress.IPv6Network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Refused(Exception):
    """The address must not be called: it is malformed, or leads to where no client may send us."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoAnswer(Exception):
    """The address may be called, but there was no whole answer: no name, no connection, no time."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Response(NamedTuple):
    """An answer. ``truncated`` says that the body was longer than what was asked for and is cut off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet's hosts; what wraps another address is judged by that."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in each for each in _CLOSED_4)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST_6 and not any(address in each for each in _CLOSED_6)


class Outbound:
    """Calls addresses that clients gave.

    The name is resolved once, every address it has must be public, and the connection goes to the address that was
    checked. No redirect is followed, no proxy or credential of the environment used, nothing is decompressed.
    ``trusted_hosts`` are names, with commas, that may also be loopback, at any port and without TLS; for a laptop
    and for tests.
    """

    def __init__(self, trusted_hosts: str = "") -> None:
        self._trusted = frozenset(each.strip().lower() for each in trusted_hosts.split(",") if each.strip())

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = 15.0,
        max_bytes: int = 64 * 1024,
    ) -> Response:
        """One call. Reads at most ``max_bytes`` of the answer's body and lasts at most ``timeout_s`` in all.

        Raises Refused where the address must not be called, NoAnswer where nobody answered in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                target = self.check(url)
                addresses = await self._resolve(target)
                return await _first(method, target, addresses, dict(headers or {}), body, max_bytes)
        except TimeoutError:
            raise NoAnswer(f"no answer within {timeout_s:g} s") from None

    def check(self, url: str) -> httpx2.URL:
        """The parsed address. Raises Refused for what can be seen without a look-up; good for checking input."""
        if len(url) > URL_LIMIT:
            raise Refused(f"the URL is longer than {URL_LIMIT} characters")
        try:
            target = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError):
            raise Refused("this is no URL") from None
        host = target.raw_host.decode("ascii")
        if not host or target.userinfo:
            raise Refused("the URL needs a host, and no user or password")
        if host.lower() in self._trusted and target.scheme in ("http", "https"):
            return target
        if target.scheme != "https":
            raise Refused("the URL must begin with https://")
        if (target.port or 443) not in _PORTS:
            raise Refused("the port must be 443 or 8443")
        return target

    async def _resolve(self, target: httpx2.URL) -> list[str]:
        """The addresses of the name. Raises Refused unless all of them may be called."""
        host = target.raw_host.decode("ascii").strip("[]")
        port = target.port or (443 if target.scheme == "https" else 80)
        look_up = asyncio.get_running_loop().run_in_executor
        try:
            found = await look_up(_RESOLVERS, _addresses, host, port)
        except (OSError, UnicodeError):
            raise NoAnswer("the host has no address") from None
        trusted = host.lower() in self._trusted
        for text in found:
            address = ipaddress.ip_address(text.partition("%")[0])
            if not (is_public(address) or (trusted and address.is_loopback)):
                raise Refused("the host's address is not on the public internet")
        return found[:_TRIED]


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def _first(
    method: str, target: httpx2.URL, addresses: list[str], headers: dict[str, str], body: bytes, max_bytes: int
) -> Response:
    """The answer of the first address that takes a connection."""
    name = target.raw_host.decode("ascii").strip("[]")
    sent = {"accept-encoding": "identity", "user-agent": "Rapport", **headers, "host": target.netloc.decode("ascii")}
    limits = httpx2.Limits(max_connections=1, max_keepalive_connections=0)
    transport = httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False, limits=limits)
    timeout = httpx2.Timeout(None, connect=_CONNECT_S)
    async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=timeout) as client:
        for address in addresses:
            request = client.build_request(
                method, target.copy_with(host=address), headers=sent, content=body or None,
                extensions={"sni_hostname": name},
            )  # fmt: skip
            try:
                return await _once(client, request, max_bytes)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
            except httpx2.HTTPError as error:
                raise NoAnswer(f"the connection ended: {type(error).__name__}") from None
    raise NoAnswer("no connection")


async def _once(client: httpx2.AsyncClient, request: httpx2.Request, max_bytes: int) -> Response:
    answer = await client.send(request, stream=True, follow_redirects=False)
    try:
        chunks, size = [], 0
        async for chunk in answer.aiter_raw(chunk_size=16 * 1024):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                break
    finally:
        await answer.aclose()
    whole = b"".join(chunks)
    return Response(answer.status_code, dict(answer.headers), whole[:max_bytes], size > max_bytes)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
