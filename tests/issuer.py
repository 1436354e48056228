"""An OpenID provider for tests, on loopback: Authlib's authorization server with PKCE, JWT access tokens, discovery."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from authlib.oidc.core import OpenIDCode
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

AUDIENCE = "crm-api"
CLIENT_ID = "rapport-cli"


class _Client(ClientMixin):  # type: ignore[misc]
    """The public client that the command line is."""

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        # RFC 8252, 7.3: any port of the loopback address.
        return redirect_uri.startswith("http://127.0.0.1:")

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "refresh_token")


@dataclass
class Person:
    """Who signs in: claims besides ``sub``."""

    sub: str
    claims: dict[str, Any] = field(default_factory=dict)

    def get_user_id(self) -> str:
        return self.sub


@dataclass
class _Code(AuthorizationCodeMixin):  # type: ignore[misc]
    code: str
    person: Person
    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    get_acr = get_amr = get_auth_time


@dataclass
class _Refresh(TokenMixin):  # type: ignore[misc]
    person: Person
    scope: str

    def check_client(self, client: Any) -> bool:
        return isinstance(client, _Client)

    def get_scope(self) -> str:
        return self.scope


class _CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def save_authorization_code(self, code: str, request: Any) -> None:
        said = request.payload.data
        self.server.codes[code] = _Code(
            code, request.user, request.payload.redirect_uri, request.payload.scope, said.get("nonce", ""),
            said.get("code_challenge", ""), said.get("code_challenge_method", ""),
        )  # fmt: skip

    def query_authorization_code(self, code: str, client: Any) -> Any:
        return self.server.codes.get(code)

    def delete_authorization_code(self, authorization_code: _Code) -> None:
        del self.server.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: _Code) -> Person:
        return authorization_code.person


class _RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def authenticate_refresh_token(self, refresh_token: str) -> Any:
        return self.server.refreshes.get(refresh_token)

    def authenticate_user(self, refresh_token: _Refresh) -> Person:
        return refresh_token.person

    def revoke_old_credential(self, refresh_token: _Refresh) -> None:
        pass


class _IdToken(OpenIDCode):  # type: ignore[misc]
    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self.issuer = issuer

    def exists_nonce(self, nonce: str, request: Any) -> bool:
        return False

    def resolve_client_private_key(self, client: Any) -> Any:
        return KeySet([self.issuer.keys[-1]])

    def get_client_claims(self, client: Any) -> dict[str, Any]:
        return {"iss": self.issuer.url, "aud": [CLIENT_ID]}

    def generate_user_info(self, user: Person, scope: str) -> dict[str, Any]:
        return {"sub": user.sub, **user.claims}


class _AccessTokens(JWTBearerTokenGenerator):  # type: ignore[misc]
    def __init__(self, issuer: Issuer) -> None:
        super().__init__(
            issuer.url,
            refresh_token_generator=lambda **_: f"refresh-{len(issuer.refreshes)}",
            expires_generator=lambda *_: issuer.life_s,
        )
        self.keys = issuer.keys

    def get_jwks(self) -> KeySet:
        return KeySet([self.keys[-1]])

    def get_audiences(self, client: Any, user: Any, scope: str) -> list[str]:
        return [AUDIENCE]

    def get_extra_claims(self, client: Any, grant_type: str, user: Person, scope: str) -> dict[str, Any]:
        return user.claims


class Issuer(AuthorizationServer):  # type: ignore[misc]
    """The provider. ``person`` is whoever sits at the browser; ``keys`` are what it publishes, the last one signs."""

    def __init__(self, url: str) -> None:
        super().__init__(scopes_supported=["openid", "email", "profile", "offline_access"])
        self.url = url
        self.person = Person("nobody")
        self.keys: list[RSAKey | ECKey | OKPKey] = [new_key("RSA", "first")]
        self.fetched = 0
        self.life_s = 300
        self.codes: dict[str, _Code] = {}
        self.refreshes: dict[str, _Refresh] = {}
        self.register_grant(_CodeGrant, [_IdToken(self), CodeChallenge(required=True)])
        self.register_grant(_RefreshGrant, [_IdToken(self)])
        self.register_token_generator("default", _AccessTokens(self))

    def query_client(self, client_id: str) -> _Client | None:
        return _Client() if client_id == CLIENT_ID else None

    def save_token(self, token: dict[str, Any], request: Any) -> None:
        if "refresh_token" in token:
            self.refreshes[token["refresh_token"]] = _Refresh(request.user, token["scope"])

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass

    def create_oauth2_request(self, request: Any) -> Any:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Any:
        return status, body, headers

    def token(self, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token as the provider would sign it, or bent; a claim or header that is None is left out."""
        key = key or self.keys[-1]
        head = {"alg": _algorithm(key), "kid": key.kid, "typ": "at+jwt"} | (header or {})
        return jwt.encode(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in claims.items() if value is not None},
            key,
            algorithms=[head["alg"]],
        )


def new_key(kind: str, kid: str) -> RSAKey | ECKey | OKPKey:
    """A signing key: RSA, EC or OKP."""
    parameters: Any = {"kid": kid, "use": "sig"}
    if kind == "RSA":
        return RSAKey.generate_key(2048, parameters)
    if kind == "EC":
        return ECKey.generate_key("P-256", parameters)
    return OKPKey.generate_key("Ed25519", parameters)


def _algorithm(key: Any) -> str:
    return {"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519"}[key.key_type]


class _Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, method: str, uri: str, headers: dict[str, str], said: dict[str, str]) -> None:
        super().__init__(method, uri, headers=headers)
        self.payload = BasicOAuth2Payload(said)
        self._said = said

    @property
    def form(self) -> dict[str, str]:
        return self._said

    args = form


class _Handler(BaseHTTPRequestHandler):
    issuer: Issuer

    def do_GET(self) -> None:
        issuer, path = self.issuer, urlsplit(self.path)
        if path.path == "/.well-known/openid-configuration":
            return self._json({
                "issuer": issuer.url,
                "authorization_endpoint": f"{issuer.url}/authorize",
                "token_endpoint": f"{issuer.url}/token",
                "jwks_uri": f"{issuer.url}/jwks",
                "code_challenge_methods_supported": ["S256"],
            })  # fmt: skip
        if path.path == "/jwks":
            issuer.fetched += 1
            return self._json({"keys": [key.as_dict(private=False) for key in issuer.keys]})
        if path.path == "/authorize":
            # The person is signed in and agrees.
            request = self._request(dict(parse_qsl(path.query)))
            grant = issuer.get_consent_grant(request, issuer.person)
            return self._answer(issuer.create_authorization_response(request, issuer.person, grant))
        return self._json({}, 404)

    def do_POST(self) -> None:
        said = dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
        self._answer(self.issuer.create_token_response(self._request(said)))

    def _request(self, said: dict[str, str]) -> _Request:
        return _Request(self.command, f"{self.issuer.url}{self.path}", dict(self.headers), said)

    def _answer(self, answer: tuple[int, Any, Any]) -> None:
        status, body, headers = answer
        raw = json.dumps(body).encode() if isinstance(body, dict) else (body or "").encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer((status, value, [("content-type", "application/json")]))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running() -> Iterator[Issuer]:
    """A provider at a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    issuer = Issuer(f"http://localhost:{server.server_port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"issuer": issuer})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
