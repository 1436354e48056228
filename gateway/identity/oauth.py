"""OAuth 2 client credentials (RFC 6749, 4.4): an API key's secret becomes an access token that lives for minutes.

What a client registers is an API key: its id is the client's, its secret the client's secret. So expiry, last use,
revocation, and two secrets side by side while one takes the other's place, are those of keys.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote_plus
from uuid import UUID

from chassis import ids
from chassis.context import Caller
from chassis.errors import Unauthenticated
from chassis.tokens import Signer, Verifier
from gateway.identity import bearer, keys, scopes
from gateway.identity.bearer import Claimed, refused

LIFE_S: Final = 900
AUDIENCE: Final = "rapport"
TYPE: Final = "at+jwt"
FORM: Final = "application/x-www-form-urlencoded"
BODY_LIMIT: Final = 8 * 1024
TOKEN_PATH: Final = "/oauth2/token"  # noqa: S105 - a path
METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
KEYS_PATH: Final = "/.well-known/jwks.json"


class Refusal(Exception):
    """An answer of RFC 6749, 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.status = status
        self.body = {"error": error, "error_description": description}


class Grant(NamedTuple):
    """What an access token of ours says: which key it came from, and the scopes it was asked for."""

    tenant: UUID
    key_id: UUID
    scopes: frozenset[str]


class AccessTokens:
    """Makes and reads the gateway's access tokens. Any gateway process reads what another one made."""

    def __init__(self, signer: Signer, verifier: Verifier, public_url: str) -> None:
        self._signer = signer
        self._verifier = verifier
        self.issuer = public_url.rstrip("/")

    def make(self, caller: Caller, wanted: frozenset[str]) -> dict[str, Any]:
        """The answer that carries a new token for a caller who came with an API key."""
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": AUDIENCE, "sub": caller.principal, "client_id": caller.credential,
            "tenant": str(caller.tenant), "scope": " ".join(sorted(wanted)), "iat": now, "exp": now + LIFE_S,
            "jti": secrets.token_urlsafe(16),
        }  # fmt: skip
        return {
            "access_token": self._signer.sign(claims, TYPE),
            "token_type": "Bearer",
            "expires_in": LIFE_S,
            "scope": claims["scope"],
        }

    def read(self, claimed: Claimed) -> Grant:
        """What a token of ours says. Raises Unauthenticated where it is not ours, changed, or has ended."""
        owner, key = self._verifier.key(claimed.kid) or ("", None)
        if key is None or owner != "gateway" or claimed.type != TYPE or claimed.audiences != {AUDIENCE}:
            raise refused()
        claims = bearer.verify(claimed, "Ed25519", key)
        try:
            key_id = ids.decode(claims["client_id"])[1]
            return Grant(UUID(claims["tenant"]), key_id, frozenset(claims["scope"].split()))
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise refused() from error

    def metadata(self) -> dict[str, Any]:
        """The document of RFC 8414."""
        return {
            "issuer": self.issuer,
            "token_endpoint": f"{self.issuer}{TOKEN_PATH}",
            "jwks_uri": f"{self.issuer}{KEYS_PATH}",
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "scopes_supported": sorted(["*", *(f"{area}.*" for area in scopes.areas())]),
        }

    def keys(self) -> dict[str, Any]:
        """The public keys with which the tokens are checked (RFC 7517)."""
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": "Ed25519"}
                for key in self._verifier.keys_of("gateway")
            ]
        }


def narrowed(holder: Caller, wanted: frozenset[str]) -> frozenset[str]:
    """Those of the scopes that the holder of a key still has."""
    return frozenset(each for each in wanted if scopes.covers(holder, each))


class Asked(NamedTuple):
    """A token request: the client's id and secret, and the scopes it wants; none means all it has."""

    client_id: str
    secret: str
    scopes: frozenset[str]


def read_request(headers: Mapping[str, str], body: bytes) -> Asked:
    """What a request to the token endpoint asks. Raises Refusal."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refusal("invalid_request", f"the body must be {FORM}")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise Refusal("invalid_request", "the body is no form") from None
    form = {name: value for name, value in pairs if value}
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refusal("invalid_request", "a parameter stands there twice")
    client_id, secret = _credentials(headers.get("authorization", ""), form)
    if "grant_type" not in form:
        raise Refusal("invalid_request", "grant_type is missing")
    if form["grant_type"] != "client_credentials":
        raise Refusal("unsupported_grant_type", "grant_type must be client_credentials")
    return Asked(client_id, secret, frozenset(form.get("scope", "").split()))


def _credentials(authorization: str, form: Mapping[str, str]) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if not authorization:
        if "client_id" not in form or "client_secret" not in form:
            raise Refusal("invalid_client", "send client_id and client_secret", 401)
        return form["client_id"], form["client_secret"]
    if "client_secret" in form:
        raise Refusal("invalid_request", "send the secret one way, not two")
    try:
        if scheme.lower() != "basic":
            raise ValueError("another scheme")
        user, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise Refusal("invalid_client", "the Authorization header holds no client id and secret", 401) from None
    client_id = unquote_plus(user)
    if not colon or form.get("client_id", client_id) != client_id:
        raise Refusal("invalid_client", "the Authorization header holds no client id and secret", 401)
    return client_id, unquote_plus(secret)


class TokenEndpoint:
    """Answers token requests."""

    def __init__(self, find: Callable[[str], Awaitable[Caller]], tokens: AccessTokens) -> None:
        self._find = find
        self.tokens = tokens

    async def answer(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """The answer with a token. Raises Refusal; Unavailable without database."""
        asked = read_request(headers, body)
        unknown = Refusal("invalid_client", "the client or its secret is not known", 401)
        if not asked.secret.startswith(keys.LEAD):
            raise unknown
        try:
            caller = await self._find(f"Bearer {asked.secret}")
        except Unauthenticated:
            raise unknown from None
        if not hmac.compare_digest(asked.client_id.encode(), caller.credential.encode()):
            raise unknown
        wanted = asked.scopes or caller.scopes
        if narrowed(caller, wanted) != wanted:
            raise Refusal("invalid_scope", "the client does not have all of these scopes")
        return self.tokens.make(caller, wanted)
