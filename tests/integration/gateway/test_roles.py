"""Roles, teams, service accounts and keys: who may do and see what, and that nobody gives what they do not have."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from chassis import ids
from gateway.identity.roles import usual_id
from tests.running import Client, Running, until


@pytest.fixture(scope="module")
def owner(platform: Running) -> Client:
    """A tenant's first key, which may do everything."""
    return platform.tenant("Roles")


@pytest.fixture(scope="module")
def usual(owner: Client) -> dict[str, str]:
    """The ids of the roles that are there from the beginning, by name."""
    return {role["display_name"]: role["id"] for role in owner.get("/v1/roles")["roles"]}


def test_every_tenant_has_the_usual_roles_once(owner: Client, usual: dict[str, str]) -> None:
    assert {"Administrator", "Sales manager", "Sales representative", "Marketing", "Read-only"} <= usual.keys()
    assert len(owner.get("/v1/roles")["roles"]) == len(usual)


def test_the_usual_roles_are_there_before_anybody_lists_them(platform: Running) -> None:
    fresh = platform.tenant("Fresh")
    administrator = ids.encode("role", usual_id(fresh.tenant, "administrator"))
    assert fresh.get(f"/v1/roles/{administrator}")["permissions"] == ["*"]
    fresh.post("/v1/users", {"display_name": "Ann", "role_ids": [administrator]})


def key_of(platform: Running, owner: Client, scopes: list[str], **whom: Any) -> Client:
    """A client with a key that acts for somebody."""
    made = owner.post("/v1/api_keys", {"display_name": "Key", "scopes": scopes, **whom})
    return platform.client(made["secret"], owner.tenant)


def person(platform: Running, owner: Client, *roles: str, **fields: Any) -> tuple[Client, str]:
    """A client that acts for a new user with these roles, and the user's id."""
    user = owner.post("/v1/users", {"display_name": "Ann", "role_ids": list(roles), **fields})["id"]
    return key_of(platform, owner, ["*"], user_id=user), user


def role(owner: Client, *permissions: str, **fields: Any) -> str:
    """The id of a new role."""
    made: str = owner.post("/v1/roles", {"display_name": "Role", "permissions": list(permissions), **fields})["id"]
    return made


def status(answer: httpx2.Response) -> tuple[int, str]:
    """What an answer came to."""
    return answer.status_code, "" if answer.is_success else answer.json()["error"]["details"][0]["reason"]


def denied(answer: httpx2.Response) -> bool:
    return status(answer) == (403, "PERMISSION_DENIED")


def test_a_key_gives_what_both_its_scopes_and_its_users_roles_give(platform: Running, owner: Client) -> None:
    user = owner.post("/v1/users", {"display_name": "Ann", "role_ids": [role(owner, "deals.*", "leads.read")]})["id"]
    client = key_of(platform, owner, ["deals.read", "leads.*", "contacts.read"], user_id=user)
    assert client.get("/v1/me")["permissions"] == ["deals.read", "leads.read"]
    assert denied(client.http.get("/v1/contacts"))
    assert client.get("/v1/me")["principal_id"] == user
    # Without any role nothing is given, whatever the key's scopes say, and as soon as the last one is taken away.
    bare = owner.post("/v1/users", {"display_name": "Bob"})["id"]
    nothing = key_of(platform, owner, ["deals.read"], user_id=bare)
    assert denied(nothing.http.get("/v1/deals"))
    assert nothing.get("/v1/me")["permissions"] == []
    owner.patch(f"/v1/users/{user}", {"role_ids": []})
    until(lambda: denied(client.http.get("/v1/deals")), "the permission is gone with the role")


def test_several_roles_give_what_any_of_them_gives(platform: Running, owner: Client) -> None:
    hidden = [{"resource": "deal", "field": name, "access": "FIELD_ACCESS_HIDDEN"} for name in ("amount",)]
    own = role(owner, "deals.read", default_visibility="VISIBILITY_OWN", field_rules=hidden)
    team = role(
        owner, "deals.read", visibility=[{"resource": "deal", "visibility": "VISIBILITY_TEAM"}], field_rules=hidden
    )
    # It may not read deals, so what it says of them, or does not say, does not count.
    other = role(owner, "contacts.read", default_visibility="VISIBILITY_ALL")
    client, _ = person(platform, owner, own, team, other)
    me = client.get("/v1/me")
    seen = {each["resource"]: each["visibility"] for each in me["visibility"]}
    assert (seen["deal"], seen["contact"], seen["lead"]) == ("VISIBILITY_TEAM", "VISIBILITY_ALL", "VISIBILITY_NONE")
    assert me["field_rules"] == hidden
    open_one = role(owner, "deals.read", default_visibility="VISIBILITY_OWN")
    assert person(platform, owner, own, open_one)[0].get("/v1/me")["field_rules"] == []


def test_a_change_of_role_or_user_is_seen_within_a_second(platform: Running, owner: Client) -> None:
    changing = role(owner, "deals.read")
    client, user = person(platform, owner, changing)
    client.get("/v1/deals")
    owner.patch(f"/v1/roles/{changing}", {"permissions": ["leads.read"]})
    until(lambda: denied(client.http.get("/v1/deals")), "the permission is gone")
    client.get("/v1/leads")
    owner.post(f"/v1/users/{user}:suspend", {})
    until(lambda: client.http.get("/v1/leads").status_code == 401, "the user is out")
    assert status(owner.http.post(f"/v1/users/{user}:suspend", json={})) == (400, "STATE_INVALID")
    owner.post(f"/v1/users/{user}:reactivate", {})
    until(lambda: client.http.get("/v1/leads").is_success, "the user is in again")
    owner.http.delete(f"/v1/users/{user}")
    until(lambda: client.http.get("/v1/leads").status_code == 401, "the user is gone")


def test_a_service_account_s_keys_have_its_rights_and_end_with_it(platform: Running, owner: Client) -> None:
    account = owner.post("/v1/service_accounts", {"display_name": "Sync", "role_ids": [role(owner, "contacts.*")]})[
        "id"
    ]
    made = owner.post("/v1/api_keys", {"display_name": "Key", "scopes": ["*"], "service_account_id": account})
    client = platform.client(made["secret"], owner.tenant)
    me = client.get("/v1/me")
    assert (me["principal_id"], me["permissions"]) == (account, ["contacts.*"])
    token = httpx2.post(
        f"{client.url}/oauth2/token", data={"grant_type": "client_credentials"}, auth=(made["id"], made["secret"])
    ).json()
    assert token["scope"] == "contacts.*"
    by_token = platform.client(token["access_token"], owner.tenant)
    assert denied(by_token.http.get("/v1/deals"))
    by_token.get("/v1/contacts")
    suspended = owner.post(f"/v1/service_accounts/{account}:suspend", {})
    assert suspended["state"] == "SERVICE_ACCOUNT_STATE_SUSPENDED"
    for each in (client, by_token):
        until(lambda each=each: each.http.get("/v1/contacts").status_code == 401, "its keys are out")  # type: ignore[misc]
    assert status(owner.http.post(f"/v1/service_accounts/{account}:suspend", json={})) == (400, "STATE_INVALID")
    owner.post(f"/v1/service_accounts/{account}:reactivate", {})
    for each in (client, by_token):
        until(lambda each=each: each.http.get("/v1/contacts").is_success, "its keys are in again")  # type: ignore[misc]
    owner.http.delete(f"/v1/service_accounts/{account}")
    for each in (client, by_token):
        until(lambda each=each: each.http.get("/v1/contacts").status_code == 401, "its keys are out")  # type: ignore[misc]
    both = {"display_name": "Key", "scopes": ["*"], "service_account_id": account}
    assert status(owner.http.post("/v1/api_keys", json=both)) == (400, "FIELD_INVALID")


def test_nobody_gives_permissions_that_they_do_not_have(
    platform: Running, owner: Client, usual: dict[str, str]
) -> None:
    may = ["roles.*", "users.*", "api_keys.*", "service_accounts.*", "identity_providers.*", "deals.read"]
    small = role(owner, *may, default_visibility="VISIBILITY_ALL")
    client, user = person(platform, owner, small)
    _, chief = person(platform, owner, usual["Administrator"])
    administrator = [usual["Administrator"]]
    for path, body in (
        ("/v1/roles", {"display_name": "More", "permissions": ["deals.write"]}),
        ("/v1/users", {"display_name": "Eve", "role_ids": administrator}),
        ("/v1/service_accounts", {"display_name": "Eve", "role_ids": administrator}),
        ("/v1/api_keys", {"display_name": "Key", "scopes": ["*"]}),
        # Within its scopes, but in another's name.
        ("/v1/api_keys", {"display_name": "Key", "scopes": ["deals.read"], "user_id": chief}),
        (
            "/v1/identity_providers",
            {"display_name": "I", "issuer": "https://i.example", "audiences": ["a"], "role_ids": administrator},
        ),
    ):
        assert denied(client.http.post(path, json=body)), path
    changes: list[tuple[str, dict[str, Any]]] = [
        (f"/v1/roles/{small}", {"permissions": ["*"]}),
        (f"/v1/users/{user}", {"role_ids": [small, *administrator]}),
        # Whoever is taken for the administrator is one.
        (f"/v1/users/{chief}", {"email": "eve@acme.example"}),
        (f"/v1/users/{chief}", {"external_ids": [{"system": "idp", "id": "eve"}]}),
    ]
    for path, body in changes:
        assert denied(client.http.patch(path, json=body)), path
    upsert = {"requests": [{"user": {"id": user, "role_ids": administrator}}], "atomic": True}
    assert denied(client.http.post("/v1/users:batchUpdate", json=upsert))
    # What they have they may give, and less is nobody's loss.
    client.post("/v1/users", {"display_name": "Bob", "role_ids": [small]})
    client.patch(f"/v1/roles/{small}", {"permissions": [*may[:-1]]})


def test_a_key_gives_no_more_in_another_s_name(platform: Running, owner: Client, usual: dict[str, str]) -> None:
    seeing = owner.get(f"/v1/roles/{usual['Read-only']}")["permissions"]
    small = role(owner, *seeing, "users.*", "api_keys.*", default_visibility="VISIBILITY_ALL")
    user = owner.post("/v1/users", {"display_name": "Eve", "role_ids": [small]})["id"]
    key = owner.post("/v1/api_keys", {"display_name": "Key", "scopes": ["*"], "user_id": user})
    client = platform.client(key["secret"], owner.tenant)
    # Nothing narrows what they see, so only the scopes are in the way.
    assert {each["visibility"] for each in client.get("/v1/me")["visibility"]} == {"VISIBILITY_ALL"}
    bare = client.post("/v1/users", {"display_name": "Without roles"})["id"]
    path = f"/v1/api_keys/{key['id']}"
    assert denied(client.http.patch(path, params={"update_mask": "userId"}, json={}))
    assert denied(client.http.patch(path, json={"user_id": bare}))
    assert owner.get(path)["user_id"] == user
    # With no more than they have it may change hands.
    client.patch(path, {"user_id": bare, "scopes": ["deals.read"]})


def test_nobody_shows_others_what_they_do_not_see(platform: Running, owner: Client) -> None:
    may = ["roles.*", "users.*", "teams.*", "api_keys.*", "service_accounts.*", "deals.*"]
    rules = [
        {"resource": "deal", "field": "amount", "access": "FIELD_ACCESS_HIDDEN"},
        {"resource": "deal", "field": "display_name", "access": "FIELD_ACCESS_READ_ONLY"},
    ]
    small = role(owner, *may, default_visibility="VISIBILITY_OWN", field_rules=rules)
    client, user = person(platform, owner, small)
    _, mate = person(platform, owner, small)
    team = owner.post("/v1/teams", {"display_name": "Team"})["id"]
    wide = role(owner, "deals.read", default_visibility="VISIBILITY_ALL")
    account = owner.post("/v1/service_accounts", {"display_name": "All", "role_ids": [wide]})["id"]
    seen = {"permissions": ["deals.read"], "default_visibility": "VISIBILITY_OWN"}
    for path, body in (
        ("/v1/roles", {"display_name": "A", **seen, "default_visibility": "VISIBILITY_ALL", "field_rules": rules}),
        ("/v1/roles", {"display_name": "B", **seen}),
        ("/v1/roles", {"display_name": "C", **seen, "field_rules": rules[1:]}),
        ("/v1/users", {"display_name": "Eve", "role_ids": [wide]}),
        ("/v1/users", {"display_name": "Eve", "team_ids": [team]}),
        ("/v1/teams", {"display_name": "Below", "parent_id": team}),
        ("/v1/api_keys", {"display_name": "K", "scopes": ["deals.read"], "user_id": mate}),
        ("/v1/api_keys", {"display_name": "K", "scopes": ["deals.read"], "service_account_id": account}),
    ):
        assert denied(client.http.post(path, json=body)), (path, body)
    for path, body in (
        (f"/v1/roles/{small}", {"default_visibility": "VISIBILITY_ALL"}),
        (f"/v1/roles/{small}", {"field_rules": []}),
        (f"/v1/users/{user}", {"team_ids": [team]}),
    ):
        assert denied(client.http.patch(path, json=body)), (path, body)
    # A key of theirs sees what they see.
    mine = client.post("/v1/api_keys", {"display_name": "K", "scopes": ["deals.read"]})
    assert mine["user_id"] == user
    assert denied(client.http.patch(f"/v1/api_keys/{mine['id']}", json={"user_id": mate}))
    client.post("/v1/roles", {"display_name": "D", **seen, "field_rules": rules})
    # Nor do they see more without any role.
    client.patch(f"/v1/users/{user}", {"role_ids": []})
    until(lambda: denied(client.http.get("/v1/deals")), "they see nothing without any role")


def test_the_last_administrator_stays(platform: Running) -> None:
    owner = platform.tenant("Last")
    admin = next(each["id"] for each in owner.get("/v1/roles")["roles"] if each["display_name"] == "Administrator")
    first, second = (owner.post("/v1/users", {"display_name": n, "role_ids": [admin]})["id"] for n in "AB")
    owner.patch(f"/v1/users/{second}", {"role_ids": []})
    batch = {"requests": [{"id": first}], "atomic": True}
    hidden = {"resource": "deal", "field": "amount", "access": "FIELD_ACCESS_HIDDEN"}
    for answer in (
        owner.http.patch(f"/v1/users/{first}", json={"role_ids": []}),
        owner.http.post(f"/v1/users/{first}:suspend", json={}),
        owner.http.delete(f"/v1/users/{first}"),
        owner.http.patch(f"/v1/roles/{admin}", json={"permissions": ["deals.read"]}),
        # Who sees part alone could never show anybody everything again.
        owner.http.patch(f"/v1/roles/{admin}", json={"default_visibility": "VISIBILITY_OWN"}),
        owner.http.patch(f"/v1/roles/{admin}", json={"field_rules": [hidden]}),
        owner.http.post("/v1/users:batchDelete", json=batch),
    ):
        assert status(answer) == (400, "STATE_INVALID")
    assert status(owner.http.delete(f"/v1/roles/{admin}")) == (400, "IN_USE")
    owner.patch(f"/v1/users/{second}", {"role_ids": [admin]})
    # Both at once are too many.
    both = {"requests": [{"user": {"id": each}, "update_mask": "roleIds"} for each in (first, second)], "atomic": True}
    assert status(owner.http.post("/v1/users:batchUpdate", json=both)) == (400, "STATE_INVALID")
    owner.http.delete(f"/v1/users/{first}")
    assert len([u for u in owner.get("/v1/users")["users"] if admin in u["role_ids"]]) == 1


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("permissions", ["deal.read"], "permissions[0]"),
        ("permissions", ["nonsense"], "permissions[0]"),
        ("visibility", [{"resource": "user", "visibility": "VISIBILITY_OWN"}], "visibility[0].resource"),
        ("visibility", [{"resource": "deal", "visibility": "VISIBILITY_OWN"}] * 2, "visibility[1].resource"),
        ("field_rules", [{"resource": "x", "field": "y", "access": "FIELD_ACCESS_HIDDEN"}], "field_rules[0].resource"),
        ("field_rules", [{"resource": "deal", "field": "y", "access": "FIELD_ACCESS_HIDDEN"}], "field_rules[0].field"),
        ("field_rules", [{"resource": "deal", "field": "id", "access": "FIELD_ACCESS_HIDDEN"}], "field_rules[0].field"),
        (
            "field_rules",
            [{"resource": "deal", "field": "etag", "access": "FIELD_ACCESS_HIDDEN"}],
            "field_rules[0].field",
        ),
        ("field_rules", [{"resource": "deal", "field": "amount", "access": "FIELD_ACCESS_HIDDEN"}] * 2, "field_rules"),
    ],
)
def test_a_role_names_what_there_is(owner: Client, field: str, value: Any, place: str) -> None:
    answer = owner.http.post("/v1/roles", json={"display_name": "Wrong", field: value})
    assert answer.status_code == 400
    assert f"role.{place}" in answer.text or f'"{place}"' in answer.text


def test_teams_are_a_tree(owner: Client) -> None:
    made: list[str] = []
    for depth in range(10):
        above = {"parent_id": made[-1]} if made else {}
        made.append(owner.post("/v1/teams", {"display_name": f"Level {depth}", **above})["id"])
    too_deep = owner.http.post("/v1/teams", json={"display_name": "Too deep", "parent_id": made[-1]})
    assert status(too_deep) == (400, "FIELD_INVALID")
    assert status(owner.http.patch(f"/v1/teams/{made[0]}", json={"parent_id": made[5]})) == (400, "FIELD_INVALID")
    assert status(owner.http.patch(f"/v1/teams/{made[0]}", json={"parent_id": made[0]})) == (400, "FIELD_INVALID")
    top = owner.post("/v1/teams", {"display_name": "Top"})["id"]
    assert status(owner.http.patch(f"/v1/teams/{made[0]}", json={"parent_id": top})) == (400, "FIELD_INVALID")
    assert status(owner.http.delete(f"/v1/teams/{made[0]}")) == (400, "IN_USE")
    user = owner.post("/v1/users", {"display_name": "Ann", "team_ids": [made[9]]})["id"]
    assert status(owner.http.delete(f"/v1/teams/{made[9]}")) == (400, "IN_USE")
    owner.patch(f"/v1/users/{user}", {"team_ids": []})
    assert owner.http.delete(f"/v1/teams/{made[9]}").is_success
    assert status(owner.http.patch(f"/v1/users/{user}", json={"team_ids": [made[9]]})) == (400, "FIELD_INVALID")


def test_a_team_that_shows_its_users_to_each_other_is_bounded(owner: Client) -> None:
    top = owner.post("/v1/teams", {"display_name": "Large"})["id"]
    below = owner.post("/v1/teams", {"display_name": "Below", "parent_id": top})["id"]
    for _ in range(2):
        many = [{"user": {"display_name": "One of many", "team_ids": [below]}} for _ in range(1000)]
        results = owner.post("/v1/users:batchCreate", {"requests": many})["results"]
        assert all(result["outcome"] == "OUTCOME_CREATED" for result in results)
    assert status(owner.http.post("/v1/users", json={"display_name": "X", "team_ids": [below]})) == (
        400,
        "FIELD_INVALID",
    )
    # Nobody sees by a team without users of its own.
    other = owner.post("/v1/teams", {"display_name": "Beside", "parent_id": top})["id"]
    owner.post("/v1/users", {"display_name": "Y", "team_ids": [other]})
    assert status(owner.http.post("/v1/users", json={"display_name": "Z", "team_ids": [top]})) == (400, "FIELD_INVALID")


def test_the_teams_of_one_user_are_bounded_together(owner: Client) -> None:
    one, other = (owner.post("/v1/teams", {"display_name": name})["id"] for name in ("One", "Other"))
    for team, count in ((one, 1000), (other, 998)):
        many = [{"user": {"display_name": "One of many", "team_ids": [team]}} for _ in range(count)]
        owner.post("/v1/users:batchCreate", {"requests": many, "atomic": True})
    both = owner.post("/v1/users", {"display_name": "In both", "team_ids": [one, other]})["id"]
    owner.post("/v1/users", {"display_name": "The last", "team_ids": [one]})
    refused = owner.http.post("/v1/users", json={"display_name": "Too many", "team_ids": [other]})
    assert status(refused) == (400, "FIELD_INVALID")
    assert "hold more than 2000 users together" in refused.text
    full = owner.post("/v1/teams", {"display_name": "Beside"})["id"]
    owner.post("/v1/users", {"display_name": "Elsewhere", "team_ids": [full]})
    assert status(owner.http.patch(f"/v1/teams/{full}", json={"parent_id": one})) == (400, "FIELD_INVALID")
    owner.patch(f"/v1/users/{both}", {"team_ids": [one]})
    owner.post("/v1/users", {"display_name": "Room again", "team_ids": [other]})
