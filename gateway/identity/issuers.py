"""The keys that identity providers publish: found by discovery, kept for a while, fetched with limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from chassis import telemetry
from chassis.errors import Reason, Unavailable
from gateway.outbound import NoAnswer, Outbound, Refused

Key = RSAKey | ECKey | OKPKey

# How long keys are used before they are fetched again.
FRESH_S: Final = 600.0
# How often they are fetched at most: for a key that is not among them, and after a failure.
AGAIN_S: Final = 30.0
# How long keys are used that cannot be fetched again.
STALE_S: Final = 24 * 3600.0
_TIMEOUT_S: Final = 5.0
_LIMIT_BYTES: Final = 256 * 1024
_KEYS: Final = 100
_LEAST_RSA_BITS: Final = 2048
_ISSUERS: Final = 10_000

log = telemetry.logger()


@dataclass
class _Published:
    keys: dict[str, tuple[str, Key]] = field(default_factory=dict)
    fetched: float = float("-inf")
    tried: float = float("-inf")
    fetching: asyncio.Task[None] | None = None


class Issuers:
    """The published keys of the issuers that tenants named."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._published: dict[str, _Published] = {}

    async def key(self, issuer: str, kid: str) -> tuple[str, Key] | None:
        """The algorithm and the key of this name; None where the issuer publishes none.

        Raises Unavailable where no keys are known and the issuer does not answer.
        """
        if len(self._published) > _ISSUERS:
            self._published.clear()
        found = self._published.setdefault(issuer, _Published())
        now = time.monotonic()
        stale = now - found.fetched > FRESH_S or kid not in found.keys
        if found.fetching is not None or (stale and now - found.tried > AGAIN_S):
            if found.fetching is None:
                found.tried = now
                found.fetching = asyncio.create_task(self._fetch(issuer, found))
            # Whoever goes away does not end it for the others.
            await asyncio.shield(found.fetching)
        if now - found.fetched > STALE_S:
            raise Unavailable(Reason.REASON_UNAVAILABLE, "the identity provider's keys cannot be read", retry_s=AGAIN_S)
        return found.keys.get(kid)

    async def _fetch(self, issuer: str, found: _Published) -> None:
        try:
            found.keys = await self._keys(issuer)
            found.fetched = time.monotonic()
        except (Refused, NoAnswer) as problem:
            log.warning("an identity provider's keys cannot be read", issuer=issuer, problem=problem.reason)
        finally:
            found.fetching = None

    async def _keys(self, issuer: str) -> dict[str, tuple[str, Key]]:
        about = await self._json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != issuer:
            raise Refused("the discovery document names another issuer")
        place = about.get("jwks_uri")
        listed = (await self._json(place)).get("keys") if isinstance(place, str) else None
        if not isinstance(listed, list):
            raise Refused("the issuer publishes no keys")
        return dict(filter(None, map(_usable, listed[:_KEYS])))

    async def _json(self, url: str) -> dict[str, Any]:
        answer = await self._outbound.fetch(
            "GET", url, {"accept": "application/json"}, timeout_s=_TIMEOUT_S, max_bytes=_LIMIT_BYTES
        )
        if answer.status != 200 or answer.truncated:
            raise Refused(f"the issuer answers {answer.status}" if not answer.truncated else "the answer is too large")
        try:
            return msgspec.json.decode(answer.body, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise Refused("the answer is no JSON object") from None


def _usable(published: Any) -> tuple[str, tuple[str, Key]] | None:
    """The name, algorithm and key, where it is one to check signatures with that we take."""
    if not isinstance(published, dict) or published.get("use", "sig") != "sig":
        return None
    kid = published.get("kid")
    try:
        algorithm, key = _imported(published)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(kid, str) or not kid or key is None or published.get("alg", algorithm) not in (algorithm, ""):
        return None
    return kid, (algorithm, key)


def _imported(published: dict[str, Any]) -> tuple[str, Key | None]:
    public = {name: value for name, value in published.items() if name in ("kty", "crv", "n", "e", "x", "y")}
    match published["kty"], published.get("crv"):
        case "RSA", _:
            if len(public["n"]) * 6 < _LEAST_RSA_BITS:
                return "", None
            rsa = RSAKey.import_key(public)
            return "RS256", rsa if rsa.public_key.key_size >= _LEAST_RSA_BITS else None
        case "EC", "P-256":
            return "ES256", ECKey.import_key(public)
        case "OKP", "Ed25519":
            return "Ed25519", OKPKey.import_key(public)
    return "", None
