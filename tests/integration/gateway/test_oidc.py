"""Users come in by their provider's tokens, and by no token that is anything but whole, current and for us."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from joserfc import jwe
from joserfc.jwk import OctKey, RSAKey

from tests import issuer as openid
from tests.issuer import AUDIENCE, Issuer, new_key
from tests.reliability.test_tokens import outcome, text
from tests.running import Client, Running, until

_LIST_USERS = "/crm.gateway.v1.UserService/ListUsers"
_LIST_DEALS = "/crm.sales.v1.DealService/ListDeals"
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
# Who comes in without any role may do nothing, but is known.
_KNOWN = (200, 403)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with openid.running() as started:
        yield started


@dataclass
class House:
    """A tenant with a provider, and a user whom it knows."""

    owner: Client
    issuer: Issuer
    provider: dict[str, Any]
    user: dict[str, Any]
    grpc_address: str

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        said = {"iss": self.issuer.url, "aud": self.provider["audiences"][0], "sub": "ann", "iat": now, "exp": now + 60}
        return said | more

    def token(self, key: Any = None, header: Any = None, **claims: Any) -> str:
        return self.issuer.token(key, header, **self.claims(**claims))

    def status(self, token: str) -> int:
        answer = self.owner.http.get("/v1/users", headers={"authorization": f"Bearer {token}"})
        return answer.status_code

    def code(self, token: str) -> grpc.StatusCode:
        return outcome(self.grpc_address, _LIST_USERS, f"Bearer {token}")


_COUNT = iter(range(1000))


@pytest.fixture
def house(platform: Running, issuer: Issuer) -> House:
    return make_house(platform, issuer)


def make_house(platform: Running, issuer: Issuer, **settings: Any) -> House:
    owner = platform.tenant("OIDC")
    audience = f"{AUDIENCE}-{next(_COUNT)}"
    wanted = {"display_name": "Test", "issuer": issuer.url, "audiences": [audience], **settings}
    provider = owner.post("/v1/identity_providers", wanted)
    link = {"system": provider["id"], "id": "ann"}
    user = owner.post("/v1/users", {"display_name": "Ann", "email": "ann@acme.example", "external_ids": [link]})
    return House(owner, issuer, provider, user, platform.env["RAPPORT_GRPC"])


def test_a_linked_user_comes_in_by_both_doors(house: House) -> None:
    token = house.token()
    assert house.status(token) in _KNOWN
    assert house.code(token) in (grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED)


@pytest.mark.parametrize("kind", ["EC", "OKP"])
def test_keys_are_fetched_again_for_a_new_name(platform: Running, kind: str) -> None:
    with openid.running() as started:
        house = make_house(platform, started)
        started.keys = [new_key(kind, "only")]
        assert house.status(house.token()) in _KNOWN
        # A second new name within half a minute has to wait, so that nobody makes us flood a provider.
        fetched = started.fetched
        started.keys.append(new_key("EC", "later"))
        for _ in range(5):
            assert house.status(house.token()) == 401
        # Two processes, each with keys of its own.
        assert started.fetched <= fetched + 1


def _bad(house: House) -> Iterator[tuple[str, str]]:
    now, key = int(time.time()), house.issuer.keys[-1]
    good = house.token()
    head, body, signature = good.split(".")
    for alg in ("none", "None", ""):
        unsigned = text({"alg": alg, "kid": key.kid})
        yield f"alg {alg!r}, unsigned", f"{unsigned}.{body}."
        yield f"alg {alg!r}, signed", f"{unsigned}.{body}.{signature}"
    for known in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode()):
        signed = f"{text({'alg': 'HS256', 'kid': key.kid, 'typ': 'at+jwt'})}.{body}"
        yield "the public key as a secret", f"{signed}.{text(hmac.digest(known, signed.encode(), 'sha256'))}"
    yield "expired long ago", house.token(exp=1)
    yield "expired", house.token(exp=now - 60)
    for exp in (None, "soon", True, [now + 60]):
        yield f"exp {exp}", house.token(exp=exp)
    yield "not yet valid", house.token(nbf=now + 300)
    yield "issued in the future", house.token(iat=now + 300)
    for aud in ("another", [], ["another"], None):
        yield f"aud {aud}", house.token(aud=aud)
    yield "aud 7", house.token(aud=[7])
    for iss in ("https://other.example", f"{house.issuer.url}/", [house.issuer.url], None, "gateway"):
        yield f"iss {iss}", house.token(iss=iss)
    for kid in ("unknown", "", None):
        yield f"kid {kid}", house.token(header={"kid": kid})
    yield "another key of that name", house.token(key=new_key("RSA", "first"))
    for sub in (None, "", "x" * 300, "stranger"):
        yield f"sub {sub}", house.token(sub=sub)
    for typ in ("logout+jwt", "dpop+jwt", "secevent+jwt", "rapport+jwt"):
        yield f"typ {typ}", house.token(header={"typ": typ})
    yield "a refresh token", house.token(typ="Refresh")
    yield "bound to a key", house.token(cnf={"jkt": "x"})
    changed = text(house.claims(sub="bob"))
    yield "other claims", f"{head}.{changed}.{signature}"
    yield "another signature", f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    yield "no signature", f"{head}.{body}."
    yield "blank signature", f"{head}.{body}"
    yield "its own key", house.token(header={"jwk": key.as_dict(private=False), "kid": "mine"})
    yield "a key elsewhere", house.token(header={"jku": "https://keys.example/jwks", "kid": "mine"})
    yield "too large", house.token(filler="x" * 6_000)
    yield "encrypted", jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, b"{}", OctKey.generate_key(256))
    sealing = RSAKey.import_key({n: v for n, v in key.as_dict(private=False).items() if n in ("kty", "n", "e")})
    header = {"alg": "RSA-OAEP", "enc": "A256GCM", "kid": key.kid}
    yield "encrypted for the provider", jwe.encrypt_compact(header, good, sealing)
    for raw in (b"[]", b"7", b"null", b"{", b"\xff", b"{}"):
        yield f"claims {raw!r}", f"{head}.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.{signature}"


def test_every_bad_token_is_refused_at_both_doors_and_at_a_service(house: House, platform: Running) -> None:
    assert house.status(house.token()) in _KNOWN
    service = platform.env["RAPPORT_SALES_ADDRESS"].split(",")[0]
    accepted = []
    for name, token in _bad(house):
        if house.status(token) not in (401, 431):
            accepted.append(f"REST: {name}")
        if house.code(token) not in _REFUSED:
            accepted.append(f"gRPC: {name}")
        if outcome(service, _LIST_DEALS, f"Bearer {token}") not in _REFUSED:
            accepted.append(f"service: {name}")
    if outcome(service, _LIST_DEALS, f"Bearer {house.token()}") not in _REFUSED:
        accepted.append("service: a good one of the provider's")
    assert not accepted


def test_a_deleted_provider_or_user_lets_nobody_in(house: House) -> None:
    token = house.token()
    assert house.status(token) in _KNOWN
    house.owner.http.delete(f"/v1/users/{house.user['id']}").raise_for_status()
    assert _soon(house, token, 401)
    house.owner.post(f"/v1/users/{house.user['id']}:undelete", {})
    assert _soon(house, token, *_KNOWN)
    house.owner.http.delete(f"/v1/identity_providers/{house.provider['id']}").raise_for_status()
    assert _soon(house, token, 401)


def _soon(house: House, token: str, *codes: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if house.status(token) in codes:
            return True
        time.sleep(0.05)
    return False


def test_a_verified_address_links_its_one_user_once(platform: Running, issuer: Issuer) -> None:
    house = make_house(platform, issuer, user_match="USER_MATCH_VERIFIED_EMAIL")
    bob = house.owner.post("/v1/users", {"display_name": "Bob", "email": "bob@acme.example"})
    mail = {"email": "BOB@acme.example"}
    for verified in (None, False, "true", 1):
        assert house.status(house.token(sub="b1", email_verified=verified, **mail)) == 401
    assert house.status(house.token(sub="b1", email_verified=True, **mail)) in _KNOWN
    linked = house.owner.get(f"/v1/users/{bob['id']}")["external_ids"]
    assert linked == [{"system": house.provider["id"], "id": "b1"}]
    # The address may have changed hands: another subject does not take the user over.
    assert house.status(house.token(sub="b2", email_verified=True, **mail)) == 401
    # Once linked it is the subject that counts.
    assert house.status(house.token(sub="b1")) in _KNOWN
    for name in ("One", "Two"):
        house.owner.post("/v1/users", {"display_name": name, "email": "shared@acme.example"})
    assert house.status(house.token(sub="s", email="shared@acme.example", email_verified=True)) == 401


def test_users_are_made_where_the_provider_may(platform: Running, issuer: Issuer) -> None:
    house = make_house(platform, issuer, create_users=True)
    said = {"name": "Cai Lee", "email": "cai@acme.example", "email_verified": True}
    assert house.status(house.token(sub="cai", **said)) in _KNOWN
    assert house.status(house.token(sub="cai", **said)) in _KNOWN
    made = [each for each in house.owner.get("/v1/users")["users"] if each.get("email") == "cai@acme.example"]
    assert [(each["display_name"], each["external_ids"][0]["id"]) for each in made] == [("Cai Lee", "cai")]
    # The address of a user who is there already is no way in without leave to match by it.
    assert house.status(house.token(sub="other", email="ann@acme.example", email_verified=True)) == 401


def test_users_have_the_rights_of_their_roles_and_new_ones_those_of_the_provider(
    platform: Running, issuer: Issuer
) -> None:
    house = make_house(platform, issuer, create_users=True)
    assert house.status(house.token()) == 403
    role = house.owner.post("/v1/roles", {"display_name": "Users", "permissions": ["users.read"]})["id"]
    house.owner.patch(f"/v1/identity_providers/{house.provider['id']}", {"role_ids": [role]})
    token = house.token(sub="dora", name="Dora")
    assert house.status(token) == 200
    made = next(each for each in house.owner.get("/v1/users")["users"] if each["display_name"] == "Dora")
    assert made["role_ids"] == [role]
    house.owner.post(f"/v1/users/{made['id']}:suspend", {})
    until(lambda: house.status(token) == 401, "a suspended user is out")


def test_an_issuer_and_audience_belong_to_one_tenant(platform: Running, house: House) -> None:
    other = platform.tenant("Another")
    same = {name: house.provider[name] for name in ("display_name", "issuer", "audiences")}
    assert other.http.post("/v1/identity_providers", json=same).status_code == 409
    house.owner.http.delete(f"/v1/identity_providers/{house.provider['id']}").raise_for_status()
    assert other.http.post("/v1/identity_providers", json=same).is_success


@pytest.mark.parametrize(
    "url", ["http://idp.example", "https://a:b@idp.example", "https://idp.example:22", "https://idp.example/?x", "x"]
)
def test_an_issuer_is_a_plain_https_url(platform: Running, url: str) -> None:
    wanted = {"display_name": "Bad", "issuer": url, "audiences": ["x"]}
    assert platform.operator().http.post("/v1/identity_providers", json=wanted).status_code == 400


def test_an_issuer_inside_our_network_is_never_asked(platform: Running) -> None:
    owner = platform.tenant("Inside")
    with openid.running() as inside:
        made = owner.post(
            "/v1/identity_providers",
            {"display_name": "Inside", "issuer": "https://127.0.0.1:8443", "audiences": [f"in-{next(_COUNT)}"]},
        )
        now = int(time.time())
        claims = {"iss": "https://127.0.0.1:8443", "aud": made["audiences"][0], "sub": "x", "exp": now + 60}
        token = inside.token(**claims)
        answer = owner.http.get("/v1/users", headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, inside.fetched) == (503, 0)


def test_an_internal_token_is_none_for_the_gateway(house: House) -> None:
    internal = house.owner.post("/v1/tokens", {"audience": "sales"})["token"]
    assert house.status(internal) == 401
    assert house.code(internal) is grpc.StatusCode.UNAUTHENTICATED
