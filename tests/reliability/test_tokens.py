"""No token but a good one opens a door: not the services', and none of them the gateway's."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from chassis.contract import load
from chassis.tokens import TYPE
from tests.reliability.conftest import Report
from tests.running import Running

HOMES = ("contacts", "activities", "sales", "marketing")
# The last one is for metadata that is larger than a door takes.
_REFUSALS = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_FUTURE = 4_000_000_000


def text(value: Any) -> str:
    """A part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Forge:
    """Makes tokens for one audience with the gateway's own key, and bends them."""

    def __init__(self, pem: str, public: str, others: str, audience: str, tenant: UUID) -> None:
        self.key, self.other = OKPKey.import_key(pem), OKPKey.import_key(others)
        self.public = public
        self.header = {"alg": "Ed25519", "kid": self.key.thumbprint(), "typ": TYPE}
        self.claims: dict[str, Any] = {
            "iss": "gateway", "aud": audience, "sub": "user_x", "tenant": str(tenant), "scopes": ["*"],
            "iat": int(time.time()), "exp": int(time.time()) + 60,
        }  # fmt: skip

    def token(self, header: dict[str, Any] | None = None, raw: bytes = b"", key: Any = None, **claims: Any) -> str:
        """A signed token; a claim that is None is left out, ``raw`` takes the place of all of them."""
        said = {name: value for name, value in (self.claims | claims).items() if value is not None}
        head = {name: value for name, value in (self.header | (header or {})).items() if value is not None}
        signed = f"{text(head)}.{text(raw or said)}"
        maker = key or self.key
        signature = _sign(maker, signed.encode())
        return f"{signed}.{text(signature)}"

    def bad(self) -> Iterator[tuple[str, str]]:
        """The corpus: a name and the value of ``authorization``."""
        for name, token in [*self._headers(), *self._claims(), *self._signatures(), *self._shapes()]:
            yield name, f"Bearer {token}"
        good = self.token()
        yield from (("no scheme", good), ("basic", f"Basic {good}"), ("two schemes", f"Bearer Bearer {good}"))
        yield from (("empty", "Bearer "), ("nothing", "Bearer"), ("an API key", "Bearer rap_" + "x" * 40))

    def _headers(self) -> Iterator[tuple[str, str]]:
        for alg in ("none", "nOnE", "NONE", "", "RS256", "ES256", "EdDSA"):
            yield f"alg {alg}", self.token({"alg": alg})
        signed = f"{text(self.header | {'alg': 'HS256'})}.{text(self.claims)}"
        digest = hmac.digest(self.public.encode(), signed.encode(), "sha256")
        yield "HS256 with the public key", f"{signed}.{text(digest)}"
        for typ in (None, "JWT", "at+jwt", "", ["rapport+jwt"]):
            yield f"typ {typ}", self.token({"typ": typ})
        for kid in (None, "gateway", "nobody", "", "../gateway", "gateway' OR '1'='1", ["gateway"], {"a": 1}, 7):
            yield f"kid {kid}", self.token({"kid": kid})
        own = OKPKey.generate_key("Ed25519")
        yield "its own key in jwk", self.token({"jwk": own.as_dict(private=False)}, key=own)
        for name in ("jku", "x5u"):
            yield name, self.token({name: "https://keys.example/jwks"}, key=own)
        yield "x5c", self.token({"x5c": ["MIIB"]}, key=own)
        yield "crit", self.token({"crit": ["exp"], "exp": 1})
        yield "crit of an extension", self.token({"crit": ["urn:x"], "urn:x": True})
        yield "b64 false", self.token({"crit": ["b64"], "b64": False})

    def _claims(self) -> Iterator[tuple[str, str]]:
        for aud in ("gateway", "nobody", "", None, ["nobody"], 7):
            yield f"aud {aud}", self.token(aud=aud)
        for iss in ("sales", "nobody", None, ["gateway"], ""):
            yield f"iss {iss}", self.token(iss=iss)
        expiries: tuple[Any, ...] = (None, 0, -1, int(time.time()) - 1, "4000000000", "", [], True, {})
        for exp in expiries:
            yield f"exp {exp}", self.token(exp=exp)
        said = json.dumps(self.claims)
        for endless in ("1e400", "NaN", "Infinity", "-Infinity"):
            yield f"exp {endless}", self.token(raw=said.replace(str(self.claims["exp"]), endless).encode())
        moments: tuple[Any, ...] = (None, "now", "", [], True)
        for iat in moments:
            yield f"iat {iat}", self.token(iat=iat)
        yield "not yet", self.token(nbf=_FUTURE)
        for tenant in (None, "", "x", 7, ["x"], "0" * 31):
            yield f"tenant {tenant}", self.token(tenant=tenant)
        yield "no subject", self.token(sub=None)
        yield "no scopes", self.token(scopes=None)
        for access in ("", "x", 7, ["x"], "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFV"):
            yield f"access {access} that did not come along", self.token(access=access)
        for scopes in (7, "*", {"*": 1}):
            yield f"scopes {scopes}", self.token(scopes=scopes)

    def _signatures(self) -> Iterator[tuple[str, str]]:
        head, body, signature = self.token().split(".")
        yield "no signature", f"{head}.{body}."
        yield "half a signature", f"{head}.{body}.{signature[: len(signature) // 2]}"
        yield "a changed signature", f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
        yield "other claims", f"{head}.{text(self.claims | {'tenant': str(uuid4())})}.{signature}"
        yield "another's key", self.token(key=self.other)
        yield "a stranger's key", self.token(key=OKPKey.generate_key("Ed25519"))
        yield "may not call", self.token({"kid": self.other.thumbprint()}, iss="contacts", key=self.other)

    def _shapes(self) -> Iterator[tuple[str, str]]:
        good = self.token()
        head, body, signature = good.split(".")
        yield from (("two parts", f"{head}.{body}"), ("four parts", f"{good}.x"), ("five parts", "a.b.c.d.e"))
        yield from (("dots", ".."), ("no base64", "!.!.!"), ("blank inside", f"{head} .{body}.{signature}"))
        for raw in (b"[]", b"7", b"null", b"{", b"\xff", b"{}", b'"x"'):
            yield f"claims {raw!r}", self.token(raw=raw)
        yield "a header that is a list", f"{text([])}.{body}.{signature}"
        yield "a token of 5 kB", self.token(sub="x" * 5_000, exp=1)


def _sign(key: Any, data: bytes) -> bytes:
    private = key.private_key
    assert isinstance(private, Ed25519PrivateKey)
    return private.sign(data)


def outcome(address: str, path: str, authorization: str) -> grpc.StatusCode:
    """The status of an empty call."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(path)
        try:
            call(b"", metadata=(("authorization", authorization),), timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.line(33)
def test_no_bad_token_opens_a_door(platform: Running, scale: Callable[[int, int], int], report: Report) -> None:
    state = platform.state
    trust = json.loads(state.key("trust.json").read_text())
    accepted, tried = [], 0
    for home in HOMES[: scale(1, len(HOMES))]:
        pem, others = (state.key(f"{name}.pem").read_text() for name in ("gateway", "contacts"))
        if home == "contacts":
            others = state.key("marketing.pem").read_text()
        forge = Forge(pem, trust["gateway"]["public_keys"][0], others, home, platform.operator().tenant)
        path = next(each.path for each in load().methods.values() if each.home == home and each.name.startswith("List"))
        address = platform.env[f"RAPPORT_{home.upper()}_ADDRESS"].split(",")[0]
        assert outcome(address, path, f"Bearer {forge.token()}") is not grpc.StatusCode.UNAUTHENTICATED
        for name, authorization in forge.bad():
            for door, where in ((home, address), ("gateway", platform.env["RAPPORT_GRPC"])):
                tried += 1
                code = outcome(where, path, authorization)
                if code not in _REFUSALS:
                    accepted.append(f"{door} {name}: {code.name}")
        good = f"Bearer {forge.token()}"
        if outcome(platform.env["RAPPORT_GRPC"], path, good) is not grpc.StatusCode.UNAUTHENTICATED:
            accepted.append("the gateway takes a token between services")
    report(not accepted, cases=tried, accepted=len(accepted), first=sorted(set(accepted))[:12])
