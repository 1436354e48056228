"""Signing in: with the browser at an identity provider (RFC 8252, RFC 7636), or with a key; kept for later commands."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
import threading
import time
import webbrowser
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2

from cli import credentials
from cli.credentials import Login
from cli.problems import Problem
from cli.render import stderr

_WAIT_S = 300
_TIMEOUT_S = 15.0
SCOPE = "openid profile email offline_access"


def with_key(url: str, key: str) -> None:
    """Keeps an API key that the platform takes. Raises Problem where it does not."""
    _check(url, key)
    credentials.save(Login(url=url, bearer=key))
    stderr.print(f"signed in at {url} with the key {key[:12]}…")


def with_browser(url: str, issuer: str, client_id: str, scope: str, *, id_token: bool) -> None:
    """Sends the user to the provider in the browser, and keeps the token that comes back. Raises Problem."""
    about = _discover(issuer)
    verifier, state, nonce = (secrets.token_urlsafe(48) for _ in range(3))
    with _Redirect(state, issuer) as redirect:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code", "client_id": client_id, "redirect_uri": redirect.uri, "scope": scope,
            "state": state, "nonce": nonce, "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        separator = "&" if urlsplit(about["authorization_endpoint"]).query else "?"
        page = f"{about['authorization_endpoint']}{separator}{urlencode(asked)}"
        stderr.print("Sign in with your browser. If none opens, go to", page, sep="\n", markup=False)
        webbrowser.open(page)
        code = redirect.code()
        answer = _token(about["token_endpoint"], {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect.uri,
            "client_id": client_id, "code_verifier": verifier,
        })  # fmt: skip
    if "id_token" in answer and _claims(answer["id_token"]).get("nonce") != nonce:
        raise Problem("the provider's answer belongs to another login; try again")
    login = _login_of(answer, Login(url, "", issuer, client_id, id_token=id_token))
    _check(url, login.bearer)
    credentials.save(login)
    stderr.print(f"signed in at {url}")


def refreshed(login: Login) -> Login:
    """The login with a token that still lives. Raises Problem where the user must sign in again."""
    if not login.issuer or login.expire_time - time.time() > 30:
        return login
    if not login.refresh_token:
        raise Problem("the login has expired: run `rapport login` again")
    about = _discover(login.issuer)
    answer = _token(about["token_endpoint"], {
        "grant_type": "refresh_token", "refresh_token": login.refresh_token, "client_id": login.client_id,
    })  # fmt: skip
    renewed = _login_of(answer, login)
    credentials.save(renewed)
    return renewed


def _login_of(answer: dict[str, Any], login: Login) -> Login:
    """The login that a token answer leads to. An access token that is no JWT cannot be read by Rapport."""
    access, identity = answer.get("access_token", ""), answer.get("id_token", "")
    bearer = access if access.count(".") == 2 and not login.id_token else identity
    if not bearer:
        raise Problem("the provider gives no token that Rapport can check; try --id-token, or another scope")
    claims = _claims(bearer)
    return Login(
        login.url, bearer, login.issuer, login.client_id, login.id_token,
        answer.get("refresh_token", login.refresh_token),
        float(claims.get("exp", time.time() + answer.get("expires_in", 300))),
    )  # fmt: skip


def _discover(issuer: str) -> dict[str, Any]:
    parts = urlsplit(issuer)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Problem(f"the issuer must begin with https://, not {issuer}")
    about = _json(httpx2.Request("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration"))
    if about.get("issuer") != issuer:
        raise Problem(f"{issuer} calls itself {about.get('issuer')}: give --issuer exactly so")
    if not all(isinstance(about.get(name), str) for name in ("authorization_endpoint", "token_endpoint")):
        raise Problem(f"{issuer} tells no endpoints to sign in at")
    return about


def _token(endpoint: str, form: dict[str, str]) -> dict[str, Any]:
    return _json(httpx2.Request("POST", endpoint, data=form, headers={"accept": "application/json"}))


def _json(request: httpx2.Request) -> dict[str, Any]:
    try:
        with httpx2.Client(timeout=_TIMEOUT_S) as client:
            answer = client.send(request)
    except httpx2.HTTPError as error:
        raise Problem(f"{request.url.host} cannot be reached: {error or type(error).__name__}") from error
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or not answer.is_success:
        said = found if isinstance(found, dict) else {}
        detail = said.get("error_description") or said.get("error") or f"HTTP {answer.status_code}"
        raise Problem(f"{request.url.host} refuses: {detail}")
    return found


def _claims(token: str) -> dict[str, Any]:
    """What a token says. It came over TLS from the provider itself, so its signature is the platform's to check."""
    try:
        body = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, IndexError):
        found = None
    return found if isinstance(found, dict) else {}


def _check(url: str, bearer: str) -> None:
    """Raises Problem where the platform does not take the credential."""
    try:
        answer = httpx2.get(f"{url}/v1/me", headers={"authorization": f"Bearer {bearer}"}, timeout=15.0)
    except httpx2.HTTPError as error:
        raise Problem(f"nothing answers at {url}: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        try:
            said = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = f"HTTP {answer.status_code}"
        raise Problem(f"{url} does not take it: {said}")


@dataclass
class _Answer:
    said: dict[str, str] | None = None


class _Redirect:
    """A server on loopback that waits for the browser to come back."""

    def __init__(self, state: str, issuer: str) -> None:
        self._state = state
        self._issuer = issuer
        self._came = threading.Event()
        self._answer = _Answer()
        answer, came = self._answer, self._came

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path)
                said = dict(parse_qsl(path.query))
                # Whoever does not know the state is not the browser that we sent.
                if path.path != "/callback" or not secrets.compare_digest(said.get("state", ""), state):
                    self.send_error(404)
                    return
                answer.said = said
                page = b"<!doctype html><title>Rapport</title><p>Done: you may close this window."
                self.send_response(200)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)
                came.set()

            def log_message(self, *_: Any, **__: Any) -> None:
                """Says nothing: the code stands in the path."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}/callback"

    def __enter__(self) -> _Redirect:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def code(self) -> str:
        """The code that the browser brought. Raises Problem where it brought an error, or did not come."""
        if not self._came.wait(_WAIT_S) or self._answer.said is None:
            raise Problem("nobody signed in within five minutes")
        said = self._answer.said
        if said.get("iss", self._issuer) != self._issuer:
            raise Problem("the answer comes from another provider")
        if "code" not in said:
            raise Problem(f"the provider refuses: {said.get('error_description') or said.get('error', 'no code')}")
        return said["code"]


def read_key() -> str:
    """A key from the terminal, unseen, or from standard input."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("API key: ").strip()
    return sys.stdin.readline().strip()
