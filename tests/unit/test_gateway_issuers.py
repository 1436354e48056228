"""Published keys: fetched once for all, kept while the issuer is away, taken from no answer that is out of order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from chassis.errors import Unavailable
from gateway.identity import issuers
from gateway.identity.issuers import Issuers
from gateway.outbound import Outbound


class Publisher:
    """An issuer that answers each path with what a test says."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[Any] = [_public(RSAKey.generate_key(2048), "a")]
        self.asked = 0
        self.answer: Callable[[str], bytes | None] = lambda _: None

    def body(self, path: str) -> bytes:
        if path == "/jwks":
            return json.dumps({"keys": self.keys}).encode()
        return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked += 1
        raw = self.answer(path)
        if raw is None:
            body = self.body(path)
            raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        writer.write(raw)
        await writer.drain()
        writer.close()


def _public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, **more}


@asynccontextmanager
async def publishing() -> AsyncIterator[Publisher]:
    publisher = Publisher()
    server = await asyncio.start_server(publisher.serve, "127.0.0.1", 0)
    publisher.url = f"http://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield publisher
    finally:
        server.close()


async def test_calls_that_come_together_fetch_once() -> None:
    async with publishing() as issuer:
        known = Issuers(Outbound("localhost"))
        found = await asyncio.gather(*[known.key(issuer.url, "a") for _ in range(20)])
        assert all(each is not None and each[0] == "RS256" for each in found)
        # Discovery and keys.
        assert issuer.asked == 2
        for _ in range(20):
            assert await known.key(issuer.url, "unknown") is None
        assert issuer.asked == 2


async def test_keys_are_kept_while_the_issuer_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuers, "FRESH_S", 0.0)
    monkeypatch.setattr(issuers, "AGAIN_S", 0.0)
    known = Issuers(Outbound("localhost"))
    async with publishing() as issuer:
        assert await known.key(issuer.url, "a") is not None
    assert await known.key(issuer.url, "a") is not None
    with pytest.raises(Unavailable):
        await Issuers(Outbound("localhost")).key(issuer.url, "a")


async def test_only_keys_to_check_our_algorithms_with_are_taken() -> None:
    async with publishing() as issuer:
        rsa = RSAKey.generate_key(2048)
        issuer.keys = [
            {**rsa.as_dict(private=False), "n": "x" * 171, "kid": "small"},
            _public(rsa, "for sealing", use="enc"),
            _public(rsa, "other algorithm", alg="RS512"),
            _public(ECKey.generate_key("P-384"), "other curve"),
            _public(OKPKey.generate_key("X25519"), "for agreement"),
            {**OctKey.generate_key(256).as_dict(private=True), "kid": "secret"},
            {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
            {**rsa.as_dict(private=False), "kid": ["list"]},
            {name: value for name, value in rsa.as_dict(private=False).items() if name != "kid"},
            "no key", None, 7,
            _public(rsa, "rsa", alg="RS256"),
            _public(ECKey.generate_key("P-256"), "ec", use="sig"),
            _public(OKPKey.generate_key("Ed25519"), "okp"),
        ]  # fmt: skip
        known = Issuers(Outbound("localhost"))
        names = [each.get("kid") for each in issuer.keys if isinstance(each, dict)]
        taken = {name for name in names if isinstance(name, str) and await known.key(issuer.url, name)}
        assert taken == {"rsa", "ec", "okp"}


def _whole(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "bad",
    [
        _whole(b"{}", "500 Oops"),
        _whole(b"", "302 Found", "location: http://127.0.0.1/\r\n"),
        _whole(b"[]"),
        _whole(b"{"),
        _whole(b"[" * 100_000),
        _whole(json.dumps({"issuer": "https://other.example", "jwks_uri": "https://other.example/jwks"}).encode()),
        _whole(json.dumps({"keys": "none"}).encode()),
        _whole(b'{"issuer":"' + b"x" * 300_000 + b'"}'),
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_out_of_order_brings_no_keys(bad: bytes) -> None:
    async with publishing() as issuer:
        issuer.answer = lambda _: bad
        with pytest.raises(Unavailable):
            await Issuers(Outbound("localhost")).key(issuer.url, "a")


@pytest.mark.parametrize("place", ["http://127.0.0.1:1/jwks", "https://169.254.169.254/keys", "file:///etc/passwd", 7])
async def test_keys_inside_our_network_are_not_fetched(place: Any) -> None:
    async with publishing() as issuer:
        issuer.answer = lambda _: _whole(json.dumps({"issuer": issuer.url, "jwks_uri": place}).encode())
        with pytest.raises(Unavailable):
            await Issuers(Outbound("localhost")).key(issuer.url, "a")
        assert issuer.asked == 1
