"""Every method for every role: refused exactly where the role lacks its permission, and then without a trace."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any
from uuid import UUID

import pytest

from chassis import ids
from chassis.contract import Method, load
from tests.running import Client, Running, until

_VARIABLE = re.compile(r"\{[a-z_.]+\}")
METHODS = [method for method in load().methods.values() if method.http is not None]
HOMES = sorted({method.home for method in METHODS})
_TABLES = """
SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1
"""
_REFUSALS = "SELECT count(*) AS n FROM audit_reads WHERE outcome = 'PERMISSION_DENIED'"


@pytest.fixture(scope="module")
def owner(platform: Running) -> Client:
    return platform.tenant("Matrix")


@pytest.fixture(scope="module")
def everyone(platform: Running, owner: Client) -> list[tuple[Client, frozenset[str]]]:
    """A client for each usual role, and one for an empty role, each with the role's permissions."""
    roles = [*owner.get("/v1/roles")["roles"], owner.post("/v1/roles", {"display_name": "Empty"})]
    assert len(roles) == 6
    found = []
    for role in roles:
        user = owner.post("/v1/users", {"display_name": role["display_name"], "role_ids": [role["id"]]})["id"]
        key = owner.post("/v1/api_keys", {"display_name": "Key", "scopes": ["*"], "user_id": user})
        client = platform.client(key["secret"], owner.tenant)
        # Notes the key's use, which is nothing that a refused call leaves.
        assert sorted(role["permissions"]) == client.get("/v1/me")["permissions"]
        found.append((client, frozenset(role["permissions"])))
    return found


def given(permissions: frozenset[str], wanted: str) -> bool:
    """What docs/access.md says of permissions, in words of its own."""
    area = wanted.split(".")[0]
    everything = "*" in permissions and area != "platform"
    return area == "self" or everything or not permissions.isdisjoint({wanted, f"{area}.*"})


def reason(client: Client, method: Method) -> tuple[str, str]:
    """Why a bare call is refused, and which permission it lacks; empty where it is not."""
    assert method.http is not None
    kind = next((each for each in load().resources.values() if f"{each.full_name}Service" == method.service), None)
    path = _VARIABLE.sub(ids.new(kind.prefix if kind else "deal"), method.http.template)
    rehearsed = "validate_only" in method.descriptor.input_type.fields_by_name
    said: dict[str, Any] = {"validate_only": True} if rehearsed else {}
    sent: dict[str, Any] = {"json": said if method.http.body == "*" else {}} if method.http.body else {}
    asked = dict.fromkeys(said, "true") if method.http.body != "*" else {}
    with client.http.stream(method.http.verb.upper(), path, params=asked, **sent) as answer:
        assert answer.status_code < 500, (method.path, answer.status_code)
        if answer.is_success:
            return "", ""
        answer.read()
        detail = answer.json()["error"]["details"][0]
    return detail["reason"], detail["metadata"].get("permission", "")


def digest(platform: Running, tenant: UUID) -> dict[str, str]:
    """A digest of every table of the tenant in every database, its ledgers among them."""
    found = {}
    for home in HOMES:
        for table in platform.rows(home, tenant, _TABLES):
            # A refused call is told of, and what is told of is sealed.
            if table["name"] in ("audit_reads", "audit_heads", "seals"):
                continue
            row = "to_jsonb(t) - 'last_use_time' - 'record'" if table["name"] == "api_keys" else "t"
            text = (
                f"SELECT string_agg(md5(({row})::text), '' ORDER BY md5(({row})::text)) AS d FROM \"{table['name']}\" t"
            )
            read = platform.rows(home, tenant, text)[0]["d"]
            found[f"{home}.{table['name']}"] = hashlib.sha256((read or "").encode()).hexdigest()
    return found


def settled(platform: Running, tenant: UUID) -> dict[str, str]:
    """The digest once what follows from earlier changes has been done: twice the same."""
    end, last = time.monotonic() + 30, digest(platform, tenant)
    while time.monotonic() < end:
        time.sleep(0.5)
        now = digest(platform, tenant)
        if now == last:
            return now
        last = now
    raise AssertionError("the databases do not come to rest")


def test_a_call_is_refused_exactly_where_the_role_lacks_its_permission(
    platform: Running, owner: Client, everyone: list[tuple[Client, frozenset[str]]]
) -> None:
    before = settled(platform, owner.tenant)
    assert {f"{home}.ledger" for home in HOMES} <= before.keys()
    allowed, refused = [], 0
    for client, permissions in everyone:
        for method in METHODS:
            if given(permissions, method.permission):
                allowed.append((client, method))
                continue
            refused += 1
            assert reason(client, method) == ("PERMISSION_DENIED", method.permission), method.path
    assert refused > len(METHODS)
    assert digest(platform, owner.tenant) == before
    until(lambda: platform.rows("gateway", owner.tenant, _REFUSALS)[0]["n"] == refused, "each refusal is on record")
    for client, method in allowed:
        why, lacking = reason(client, method)
        assert (why, lacking) != ("PERMISSION_DENIED", method.permission), method.path


def test_a_digest_sees_a_change(platform: Running, owner: Client) -> None:
    before = settled(platform, owner.tenant)
    owner.post("/v1/companies", {"display_name": "Acme"})
    after = digest(platform, owner.tenant)
    assert {"contacts.companies", "contacts.ledger"} <= {name for name in after if after[name] != before.get(name)}
