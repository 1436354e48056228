"""Signed tokens between processes, and sealed texts that clients hand back unread."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import os
import time
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from chassis.context import Caller
from chassis.errors import Denied, Reason, Unauthenticated

# RFC 9864 retires the name "EdDSA" for this one, which says the curve.
ALGORITHM = "Ed25519"
LIFE_S = 60
# A token is renewed while it still has this long to live, so that it does not end under way.
MARGIN_S = 20
_CACHE_LIMIT = 10_000


class Signer:
    """Makes the tokens with which a kind of process calls the others."""

    def __init__(self, kind: str, private_key_pem: str) -> None:
        self.kind = kind
        self._key = OKPKey.import_key(private_key_pem)
        self._cache: dict[tuple[str, Caller], tuple[str, float]] = {}

    def token(self, audience: str, caller: Caller) -> str:
        """A token that lets ``caller`` be served by the kind ``audience`` for at most 60 seconds."""
        cached = self._cache.get((audience, caller))
        now = time.time()
        if cached and cached[1] - MARGIN_S > now:
            return cached[0]
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        text, expiry = self.mint(audience, caller)
        self._cache[audience, caller] = (text, expiry)
        return text

    def mint(self, audience: str, caller: Caller) -> tuple[str, float]:
        """A fresh token and when it ends, as a Unix time in seconds."""
        expiry = time.time() + LIFE_S
        claims = {
            "iss": self.kind,
            "aud": audience,
            "sub": caller.principal,
            "tenant": str(caller.tenant),
            "scopes": sorted(caller.scopes),
            "exp": int(expiry),
        }
        if caller.act:
            claims["act"] = caller.act
        return jwt.encode({"alg": ALGORITHM, "kid": self.kind}, claims, self._key, algorithms=[ALGORITHM]), expiry


class Verifier:
    """Checks the tokens that come in: signature, audience, expiry, and whether their maker may call here."""

    def __init__(self, kind: str, trust: str) -> None:
        self.kind = kind
        self._keys: dict[str, OKPKey] = {}
        self._may_call: dict[str, frozenset[str]] = {}
        for caller, entry in json.loads(trust).items():
            self._keys[caller] = OKPKey.import_key(entry["public_key"])
            self._may_call[caller] = frozenset(entry["may_call"])
        self._cache: dict[str, tuple[Caller, float]] = {}

    def verify(self, authorization: str) -> Caller:
        """The caller that the value of ``authorization`` vouches for.

        Raises Unauthenticated where it is missing, forged, expired or for another service, Denied where its maker
        may not call this kind.
        """
        cached = self._cache.get(authorization)
        if cached and cached[1] > time.time():
            return cached[0]
        caller, expiry = self._check(authorization)
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        self._cache[authorization] = (caller, expiry)
        return caller

    def _check(self, authorization: str) -> tuple[Caller, float]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("a call needs the metadata 'authorization: Bearer <token>'")
        try:
            kid = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
            key = self._keys[kid]
            claims = jwt.decode(token, key, algorithms=[ALGORITHM]).claims
            expiry = _moment(claims["exp"])
            begin = _moment(claims.get("nbf", 0))
            if not isinstance(claims["scopes"], list):
                raise TypeError("scopes are a list")
            caller = Caller(
                tenant=UUID(claims["tenant"]),
                principal=str(claims["sub"]),
                scopes=frozenset(map(str, claims["scopes"])),
                issuer=str(claims["iss"]),
                act=str(claims.get("act", "")),
            )
        except (JoseError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise _unauthenticated("the token is not valid") from error
        if caller.issuer != kid or claims.get("aud") != self.kind:
            raise _unauthenticated("the token is for another service")
        if not begin <= time.time() < expiry:
            raise _unauthenticated("the token has expired, or is not valid yet")
        if self.kind not in self._may_call.get(caller.issuer, frozenset()):
            raise Denied(Reason.REASON_PERMISSION_DENIED, f"{caller.issuer} may not call {self.kind}")
        return caller, expiry


def _moment(value: object) -> float:
    """A time in a token. Raises ValueError for what is none: a text, or a number without end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a time is a number of seconds")
    return float(value)


def _unauthenticated(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.REASON_UNAUTHENTICATED, message)


class Sealer:
    """Signs or encrypts what a client keeps for us: page tokens and replay ids."""

    def __init__(self, key_hex: str) -> None:
        key = bytes.fromhex(key_hex.strip())
        if len(key) != 32:
            raise ValueError("the token key has 64 hexadecimal digits")
        self._mac_key = hashlib.sha256(b"sign" + key).digest()
        self._cipher = AESGCM(hashlib.sha256(b"encrypt" + key).digest())

    def sign(self, body: bytes) -> str:
        """``body`` and its signature as text."""
        return base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def open(self, text: str) -> bytes:
        """The body that ``sign`` made the text of. Raises ValueError where it is forged or damaged."""
        raw = _unbase64(text)
        mac, body = raw[:16], raw[16:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise ValueError("forged or damaged")
        return body

    def encrypt(self, body: bytes, bound_to: bytes) -> str:
        """``body`` as a text that only opens for the same ``bound_to``, for example a tenant's id."""
        nonce = os.urandom(12)
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, body, bound_to)).decode().rstrip("=")

    def decrypt(self, text: str, bound_to: bytes) -> bytes:
        """The body that ``encrypt`` made the text of. Raises ValueError where it is forged or bound to another."""
        raw = _unbase64(text)
        try:
            return self._cipher.decrypt(raw[:12], raw[12:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise ValueError("forged, damaged or another's") from error

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._mac_key, body, hashlib.sha256).digest()[:16]


def _unbase64(text: str) -> bytes:
    """The bytes of a text as we wrote it: another spelling of them is no text of ours."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise ValueError("forged or damaged")
    return raw
