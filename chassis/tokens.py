"""Signed tokens between processes, and sealed texts that clients hand back unread."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from chassis import ids
from chassis.access import Access
from chassis.context import Caller
from chassis.errors import Denied, Reason, Unauthenticated

# RFC 9864 retires the name "EdDSA" for this one, which says the curve.
ALGORITHM = "Ed25519"
# What a token between processes says of itself, so that no other kind of token passes for one.
TYPE = "rapport+jwt"
LIFE_S = 60
# A token is renewed while it still has this long to live, so that it does not end under way.
MARGIN_S = 20
# How old a gateway's knowledge of a credential may be. What it signed so long after a revocation is revoked too.
FRESH_S = 1.0
_CACHE_LIMIT = 10_000
_ACCESS_LIMIT = 1_000
_LOOK_S = 1.0

log = logging.getLogger(__name__)


class KeyFile:
    """A file with keys, which another program may replace while this process runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._look_at = time.monotonic() + _LOOK_S
        self.text = path.read_text()

    def changed(self, *, now: bool = False) -> bool:
        """Whether ``text`` is another than before. Looks at most once a second, and at once where ``now``."""
        clock = time.monotonic()
        if clock < self._look_at and not now:
            return False
        self._look_at = clock + _LOOK_S
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            text = self._path.read_text()
        except OSError as error:
            log.warning("the key file %s cannot be read", self._path.name, exc_info=error)
            return False
        self._seen, before, self.text = stamp, self.text, text
        return text != before

    def _stamp(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size


class Revocations:
    """Whose tokens hold no longer: what was issued to a principal or credential before a moment."""

    def __init__(self) -> None:
        self._moments: dict[str, float] = {}

    def add(self, who: str, at: float) -> None:
        """Takes one in; ``at`` is a Unix time in seconds. It is kept as long as such a token may live."""
        now = time.time()
        kept = {each: moment for each, moment in self._moments.items() if moment + 2 * LIFE_S > now}
        kept[who] = max(at, kept.get(who, 0.0))
        self._moments = kept

    def cover(self, caller: Caller, issued: float) -> bool:
        """Whether a token that was issued for this caller at that time holds no longer."""
        if not self._moments:
            return False
        names = (caller.principal, caller.credential)
        return any(issued <= self._moments[name] + FRESH_S for name in names if name in self._moments)


class Signer:
    """Makes the tokens with which a kind of process calls the others. A key file that is replaced is read again."""

    def __init__(self, kind: str, key_file: Path) -> None:
        self.kind = kind
        self._file = KeyFile(key_file)
        self._cache: dict[tuple[str, Caller], tuple[str, float]] = {}
        self.revoked = Revocations()
        self._take(self._file.text)

    def _take(self, pem: str) -> None:
        self._key = OKPKey.import_key(pem)
        self._kid = self._key.thumbprint()
        self._cache.clear()

    def token(self, audience: str, caller: Caller) -> str:
        """A token that lets ``caller`` be served by the kind ``audience`` for at most 60 seconds."""
        self._renew()
        if caller.cause is not None:
            # Few calls answer one event.
            return self.mint(audience, caller)[0]
        cached = self._cache.get((audience, caller))
        now = time.time()
        if cached and cached[1] - MARGIN_S > now and not self.revoked.cover(caller, cached[1] - LIFE_S):
            return cached[0]
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        text, expiry = self.mint(audience, caller)
        self._cache[audience, caller] = (text, expiry)
        return text

    def mint(self, audience: str, caller: Caller) -> tuple[str, float]:
        """A fresh token and when it ends, as a Unix time in seconds."""
        now = time.time()
        claims = {
            "iss": self.kind,
            "aud": audience,
            "sub": caller.principal,
            "tenant": str(caller.tenant),
            "scopes": sorted(caller.scopes),
            "iat": round(now, 3),
            "exp": int(now + LIFE_S),
        }
        if caller.credential:
            claims["cred"] = caller.credential
        if caller.act:
            claims["act"] = caller.act
        if caller.access is not None:
            claims["access"] = caller.access.claim
        if caller.cause is not None:
            claims["cause"] = str(caller.cause)
        return self.sign(claims, TYPE), now + LIFE_S

    def sign(self, claims: dict[str, Any], type: str) -> str:
        """A token of another kind, with these claims and this ``typ``."""
        self._renew()
        return jwt.encode({"alg": ALGORITHM, "kid": self._kid, "typ": type}, claims, self._key, algorithms=[ALGORITHM])

    def _renew(self) -> None:
        if self._file.changed():
            try:
                self._take(self._file.text)
            except (JoseError, ValueError) as error:
                log.error("the new signing key cannot be used", exc_info=error)


class _Verified(NamedTuple):
    caller: Caller
    issued: float
    expiry: float
    # The claim that stands for what the caller may see; empty for a caller that sees all that its scopes open.
    access: str


class Verifier:
    """Checks the tokens that come in: signature, audience, expiry, revocation, and whether their maker may call here.

    The trust file holds for each kind of process ``public_keys``, a list of PEM texts, any of which may have signed,
    and ``may_call``. One that is replaced is read again.
    """

    def __init__(self, kind: str, trust_file: Path) -> None:
        self.kind = kind
        self._file = KeyFile(trust_file)
        self._cache: dict[str, _Verified] = {}
        # What callers may see, by its claim: users have one each, and a new token every minute.
        self._access: dict[str, Access] = {}
        self.revoked = Revocations()
        self._take(self._file.text)

    def _take(self, trust: str) -> None:
        keys: dict[str, tuple[str, OKPKey]] = {}
        may_call: dict[str, frozenset[str]] = {}
        for caller, entry in json.loads(trust).items():
            for pem in entry["public_keys"]:
                key = OKPKey.import_key(pem)
                keys[key.thumbprint()] = (caller, key)
            may_call[caller] = frozenset(entry["may_call"])
        self._keys, self._may_call = keys, may_call
        self._cache.clear()

    def _renew(self, *, now: bool = False) -> None:
        if self._file.changed(now=now):
            try:
                self._take(self._file.text)
            except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.error("the new trust file cannot be used", exc_info=error)

    def verify(self, authorization: str, access: bytes = b"") -> Caller:
        """The caller that the value of ``authorization`` vouches for, with the ``access`` that came along.

        Raises Unauthenticated where it is missing, forged, expired, revoked or for another service, Denied where its
        maker may not call this kind.
        """
        self._renew()
        found = self._cache.get(authorization)
        if found is None or found.expiry <= time.time():
            found = self._check(authorization)
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            self._cache[authorization] = found
        if found.access:
            return replace(self._current(found).caller, access=self._access_of(found.access, access))
        return self._current(found).caller

    def _current(self, found: _Verified) -> _Verified:
        if self.revoked.cover(found.caller, found.issued):
            raise _unauthenticated("the credential behind the token is revoked")
        return found

    def _access_of(self, claim: str, encoded: bytes) -> Access:
        """What came along with a token, if that is what the token speaks of. A header without a claim says nothing."""
        known = self._access.get(claim)
        if known is None or known.encoded != encoded:
            try:
                known = Access.decode(encoded)
            except ValueError as error:
                raise _unauthenticated("the token's access is damaged") from error
            if not hmac.compare_digest(known.claim, claim):
                raise _unauthenticated("the token's access is missing, or another's")
            if len(self._access) >= _ACCESS_LIMIT:
                self._access.clear()
            self._access[claim] = known
        return known

    def key(self, kid: str) -> tuple[str, OKPKey] | None:
        """The kind whose key this is, and the key."""
        if kid not in self._keys:
            self._renew(now=True)
        return self._keys.get(kid)

    def keys_of(self, kind: str) -> list[OKPKey]:
        """The public keys of a kind."""
        self._renew()
        return [key for owner, key in self._keys.values() if owner == kind]

    def _check(self, authorization: str) -> _Verified:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("a call needs the metadata 'authorization: Bearer <token>'")
        try:
            header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
            if header["typ"] != TYPE:
                raise ValueError("another kind of token")
            owner, key = self.key(header["kid"]) or ("", None)
            if key is None:
                raise ValueError("nobody's key")
            claims = jwt.decode(token, key, algorithms=[ALGORITHM]).claims
            expiry = _moment(claims["exp"])
            issued = _moment(claims["iat"])
            begin = _moment(claims.get("nbf", 0))
            if not isinstance(claims["scopes"], list):
                raise TypeError("scopes are a list")
            caller = Caller(
                tenant=ids.uuid(claims["tenant"]),
                principal=str(claims["sub"]),
                scopes=frozenset(map(str, claims["scopes"])),
                issuer=str(claims["iss"]),
                act=str(claims.get("act", "")),
                credential=str(claims.get("cred", "")),
                cause=ids.uuid(claims["cause"]) if "cause" in claims else None,
            )
            access = str(claims.get("access", ""))
            if not access and "access" in claims:
                raise ValueError("an empty claim")
        except (JoseError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise _unauthenticated("the token is not valid") from error
        if caller.issuer != owner or claims.get("aud") != self.kind:
            raise _unauthenticated("the token is for another service")
        if not begin <= time.time() < expiry:
            raise _unauthenticated("the token has expired, or is not valid yet")
        if self.kind not in self._may_call.get(caller.issuer, frozenset()):
            raise Denied(Reason.REASON_PERMISSION_DENIED, f"{caller.issuer} may not call {self.kind}")
        return _Verified(caller, issued, expiry, access)


def _moment(value: object) -> float:
    """A time in a token. Raises ValueError for what is none: a text, or a number without end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a time is a number of seconds")
    return float(value)


def _unauthenticated(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.REASON_UNAUTHENTICATED, message)


class Sealer:
    """Signs or encrypts what a client keeps for us: page tokens and replay ids.

    Their texts begin with a letter: a command line takes one that begins with a hyphen for an option.
    """

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
        nonce = _letter_first(os.urandom(12))
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, body, bound_to)).decode().rstrip("=")

    def decrypt(self, text: str, bound_to: bytes) -> bytes:
        """The body that ``encrypt`` made the text of. Raises ValueError where it is forged or bound to another."""
        raw = _unbase64(text)
        try:
            return self._cipher.decrypt(raw[:12], raw[12:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise ValueError("forged, damaged or another's") from error

    def _mac(self, body: bytes) -> bytes:
        return _letter_first(hmac.digest(self._mac_key, body, "sha256")[:16])


def _letter_first(raw: bytes) -> bytes:
    """The bytes without their first bit: base64 begins with a hyphen, an underscore or a digit only where it is set."""
    return bytes([raw[0] & 0x7F]) + raw[1:]


def _unbase64(text: str) -> bytes:
    """The bytes of a text as we wrote it: another spelling of them is no text of ours."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise ValueError("forged or damaged")
    return raw
