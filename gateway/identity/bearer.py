"""JSON Web Tokens that clients bring: what they claim, and whether it is signed by whom they name."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError

from chassis.errors import Reason, Unauthenticated
from gateway.identity.issuers import Key

# Ours, and never the token's choice. RFC 9864 says "Ed25519" where RFC 8037 said "EdDSA".
ALGORITHMS: Final = ("RS256", "ES256", "Ed25519")
SIZE_LIMIT: Final = 7 * 1024
# How far clocks may be apart.
LEEWAY_S: Final = 30.0
_HEADER_TYPES: Final = ("", "jwt", "at+jwt", "application/at+jwt")
_CLAIM_TYPES: Final = ("", "Bearer", "ID")


@dataclass(frozen=True)
class Claimed:
    """What a token says before anything of it is checked but its form."""

    text: str
    algorithm: str
    kid: str
    type: str
    issuer: str
    audiences: frozenset[str]


def read(text: str) -> Claimed:
    """What a token claims. Raises Unauthenticated where its form or its algorithm is none that we take."""
    parts = text.split(".")
    if len(text) > SIZE_LIMIT or len(parts) != 3:
        raise refused()
    header, claims = _object(parts[0]), _object(parts[1])
    algorithm, kid, type = header.get("alg"), header.get("kid"), header.get("typ", "")
    if algorithm not in ALGORITHMS or not isinstance(kid, str) or not kid or "crit" in header:
        raise refused()
    if not isinstance(type, str) or type.lower() not in _HEADER_TYPES:
        raise refused()
    issuer, audiences = claims.get("iss"), claims.get("aud")
    named = [audiences] if isinstance(audiences, str) else audiences
    if not isinstance(issuer, str) or not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise refused()
    return Claimed(text, algorithm, kid, type.lower(), issuer, frozenset(named))


def verify(claimed: Claimed, algorithm: str, key: Key) -> dict[str, Any]:
    """The token's claims, once signature and times are right. Raises Unauthenticated otherwise.

    Issuer and audience are the caller's to check, since they led to the key.
    """
    if claimed.algorithm != algorithm:
        raise refused()
    try:
        claims = jwt.decode(claimed.text, key, algorithms=[algorithm]).claims
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise refused() from error
    now = time.time()
    if not _is_time(claims.get("exp")) or claims["exp"] + LEEWAY_S <= now:
        raise refused("the token has expired")
    for name in ("nbf", "iat"):
        if name in claims and (not _is_time(claims[name]) or claims[name] - LEEWAY_S > now):
            raise refused("the token is not valid yet")
    if claims.get("typ", "") not in _CLAIM_TYPES or "cnf" in claims:
        # A token for something else, or one that only its holder's key makes good.
        raise refused()
    if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
        raise refused()
    return claims


def refused(message: str = "the token is not valid") -> Unauthenticated:
    """The refusal of a token."""
    return Unauthenticated(Reason.REASON_UNAUTHENTICATED, message)


def _object(part: str) -> dict[str, Any]:
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        raise refused() from None


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11
