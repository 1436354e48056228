"""OAuth 2 client credentials: a key's secret becomes a token for minutes that never outlives or exceeds the key."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import grpc
import httpx2
import pytest
from authlib.oauth2.auth import ClientAuth
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from tests.reliability.test_tokens import outcome, text
from tests.running import Client, Running, until

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def owner(platform: Running) -> Client:
    return platform.tenant("OAuth")


def key_of(owner: Client, *scopes: str) -> dict[str, Any]:
    return owner.post("/v1/api_keys", {"display_name": "Integration", "scopes": list(scopes)})


def ask(owner: Client, auth: tuple[str, str] | None = None, **form: str) -> httpx2.Response:
    headers = {"authorization": f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"} if auth else {}
    with httpx2.Client(base_url=owner.url) as http:
        return http.post("/oauth2/token", data={"grant_type": "client_credentials"} | form, headers=headers)


def get(owner: Client, path: str, token: str) -> int:
    return owner.http.get(path, headers={"authorization": f"Bearer {token}"}).status_code


def test_both_ways_of_sending_the_secret(owner: Client) -> None:
    key = key_of(owner, "contacts.*", "deals.read")
    basic = ask(owner, (key["id"], key["secret"]))
    posted = ask(owner, client_id=key["id"], client_secret=key["secret"], scope="deals.read")
    assert (basic.status_code, posted.status_code) == (200, 200)
    assert basic.headers["cache-control"] == "no-store"
    answer = basic.json()
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 900, "contacts.* deals.read")
    assert get(owner, "/v1/contacts", answer["access_token"]) == 200
    # Less was asked for, so less is given.
    narrow = posted.json()["access_token"]
    assert (get(owner, "/v1/deals", narrow), get(owner, "/v1/contacts", narrow)) == (200, 403)


def test_it_reads_as_the_metadata_says(owner: Client) -> None:
    about = owner.get("/.well-known/oauth-authorization-server")
    assert about["issuer"] == owner.url
    key = key_of(owner, "deals.read")
    token = ask(owner, (key["id"], key["secret"])).json()["access_token"]
    published = KeySet.import_key_set(httpx2.get(about["jwks_uri"]).json())
    read = jwt.decode(token, published, algorithms=["Ed25519"])
    assert read.header["typ"] == "at+jwt"
    assert {
        "iss": owner.url,
        "aud": "rapport",
        "client_id": key["id"],
        "scope": "deals.read",
    }.items() <= read.claims.items()
    assert read.claims["exp"] - read.claims["iat"] <= 900
    assert read.claims["jti"]


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_client_library_gets_a_token(owner: Client, method: str) -> None:
    key = key_of(owner, "deals.read")
    endpoint = owner.get("/.well-known/oauth-authorization-server")["token_endpoint"]
    auth = ClientAuth(key["id"], key["secret"], method)
    url, headers, body = auth.prepare("POST", endpoint, dict(FORM), "grant_type=client_credentials")
    token = httpx2.post(url, headers=headers, content=body).json()
    assert get(owner, "/v1/deals", token["access_token"]) == 200


def test_errors_are_those_of_the_standard(owner: Client, platform: Running) -> None:
    key, other = key_of(owner, "deals.read"), key_of(owner, "*")
    good = {"client_id": key["id"], "client_secret": key["secret"]}
    expected = {
        "invalid_client": [
            ask(owner),
            ask(owner, client_id=key["id"]),
            ask(owner, client_id=key["id"], client_secret="rap_wrong"),
            ask(owner, client_id=other["id"], client_secret=key["secret"]),
            ask(owner, (key["id"], "wrong")),
            ask(owner, ("", "")),
        ],
        "unsupported_grant_type": [ask(owner, grant_type="password", **good)],
        "invalid_scope": [ask(owner, scope="contacts.read", **good), ask(owner, scope="*", **good)],
        "invalid_request": [
            ask(owner, grant_type="", **good),
            ask(owner, (key["id"], key["secret"]), client_secret=key["secret"]),
            httpx2.post(f"{owner.url}/oauth2/token", json=good),
            httpx2.post(f"{owner.url}/oauth2/token", content=b"grant_type=a&grant_type=b", headers=FORM),
            httpx2.post(f"{owner.url}/oauth2/token", content=b"\xff=\xfe", headers=FORM),
        ],
    }
    for error, answers in expected.items():
        for answer in answers:
            assert (answer.json()["error"], answer.status_code) == (error, 401 if error == "invalid_client" else 400)
            assert ("www-authenticate" in answer.headers) == (error == "invalid_client")
            assert "secret" not in json.dumps(answer.json().get("access_token", ""))


def test_the_token_ends_with_its_key_and_never_exceeds_it(owner: Client) -> None:
    key = key_of(owner, "deals.read", "contacts.read")
    token = ask(owner, (key["id"], key["secret"])).json()["access_token"]
    assert get(owner, "/v1/deals", token) == 200
    owner.patch(f"/v1/api_keys/{key['id']}", {"scopes": ["contacts.read"]})
    until(lambda: get(owner, "/v1/deals", token) == 403, "what the key lost its token lost", patience_s=10)
    assert get(owner, "/v1/contacts", token) == 200
    owner.http.delete(f"/v1/api_keys/{key['id']}").raise_for_status()
    until(lambda: get(owner, "/v1/contacts", token) == 401, "the token ended with its key", patience_s=10)
    assert ask(owner, (key["id"], key["secret"])).status_code == 401


def test_no_token_but_ours_passes(owner: Client, platform: Running) -> None:
    key = key_of(owner, "*")
    token = ask(owner, (key["id"], key["secret"])).json()["access_token"]
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    kid = json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]
    state = platform.state
    gateway, sales = (OKPKey.import_key(state.key(f"{kind}.pem").read_text()) for kind in ("gateway", "sales"))

    def signed(signer: OKPKey, header: dict[str, Any] | None = None, **more: Any) -> str:
        said = {name: value for name, value in (claims | more).items() if value is not None}
        full = {"alg": "Ed25519", "kid": signer.thumbprint(), "typ": "at+jwt"} | (header or {})
        return jwt.encode(full, said, signer, algorithms=["Ed25519"])

    assert get(owner, "/v1/deals", signed(gateway)) == 200
    bad = {
        "another service's key": signed(sales),
        "a stranger's key": signed(OKPKey.generate_key("Ed25519"), {"kid": kid}),
        "expired": signed(gateway, exp=int(time.time()) - 60),
        "not yet valid": signed(gateway, nbf=int(time.time()) + 300),
        "another audience": signed(gateway, aud="contacts"),
        "two audiences": signed(gateway, aud=["rapport", "contacts"]),
        "another issuer": signed(gateway, iss="https://other.example"),
        "another type": signed(gateway, {"typ": "JWT"}),
        "internal type": signed(gateway, {"typ": "rapport+jwt"}),
        "another tenant": signed(gateway, tenant=str(platform.operator().tenant)),
        "no key": signed(gateway, client_id=None),
        "no scope": signed(gateway, scope=None),
        "no end": signed(gateway, exp=None),
        "unsigned": f"{text({'alg': 'none', 'kid': kid, 'typ': 'at+jwt'})}.{body}.",
        "changed": f"{head}.{text(claims | {'scope': 'platform.*'})}.{signature}",
    }
    accepted = [name for name, each in bad.items() if get(owner, "/v1/deals", each) != 401]
    assert not accepted
    # For clients of the gateway: no service takes it.
    for home, path in (
        ("sales", "/crm.sales.v1.DealService/ListDeals"),
        ("contacts", "/crm.contacts.v1.ContactService/ListContacts"),
    ):
        address = platform.env[f"RAPPORT_{home.upper()}_ADDRESS"].split(",")[0]
        for each in (token, signed(gateway, aud=home)):
            assert outcome(address, path, f"Bearer {each}") is grpc.StatusCode.UNAUTHENTICATED
