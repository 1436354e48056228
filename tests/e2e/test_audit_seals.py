"""The sealed audit of a running platform, over REST and from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local import control, postgres
from deploy.local.state import State
from tests.e2e.test_cli import Rapport, rapport, tenant  # noqa: F401  the fixtures
from tests.running import Client, Running, until

VERIFY = "/v1/audit:verify"


def verified(client: Client, **body: Any) -> dict[str, dict[str, Any]]:
    """What is found in each service's ledger at the end of a whole check."""
    found = client.post(VERIFY, body)
    while found["next_page_token"]:
        found = client.post(VERIFY, body | {"page_token": found["next_page_token"]})
    return {each["service"]: each for each in found["logs"] if each["log"] in ("", "ledger")}


def sealed(client: Client, service: str, rows: int) -> dict[str, Any]:
    """The ledger's state once so many of its rows are sealed."""

    def holds() -> dict[str, Any] | None:
        found = verified(client)[service]
        assert found["state"] == "AUDIT_STATE_VERIFIED", found
        return found if int(found["checked_rows"]) >= rows and found["unsealed_rows"] == "0" else None

    found: dict[str, Any] = until(holds, f"{rows} rows of {service} are sealed")
    return found


def superuser_dsn(state: State, service: str) -> str:
    """The way past every wall."""
    state.create()
    port = state.remembered["ports"]["postgres"]
    return postgres.dsn(port, service, postgres.SUPERUSER, state.password("postgres"))


def as_superuser(state: State, service: str, statement: str, *values: Any) -> None:
    """Runs a statement past every wall."""

    async def run() -> None:
        connection = await asyncpg.connect(superuser_dsn(state, service))
        try:
            await connection.execute(statement, *values)
        finally:
            await connection.close()

    asyncio.run(run())


def test_a_change_behind_rapports_back_ends_the_command_with_1(
    platform: Running,
    rapport: Rapport,  # noqa: F811
    tenant: Client,  # noqa: F811
    tmp_path: Path,
) -> None:
    made = [tenant.post("/v1/deals", {"display_name": f"Deal {number}"}) for number in range(3)]
    tenant.post("/v1/contacts", {"given_name": "Ana"})
    sealed(tenant, "contacts", 1)
    rows = sealed(tenant, "sales", 3)
    assert int(rows["head"]["sequence"]) >= 1
    heads = tmp_path / "heads.json"
    heads.write_text(rapport("audit", "heads"))
    assert {each["service"] for each in json.loads(heads.read_text())["heads"]} >= {"sales", "gateway", "contacts"}
    said = rapport("audit", "verify", "--heads", str(heads))
    assert "nothing that was sealed has changed" in said

    change = "UPDATE ledger SET actor = 'user_other' WHERE tenant_id = $1 AND entity_id = $2"
    as_superuser(platform.state, "sales", change, tenant.tenant, made[1]["id"])
    said = rapport("audit", "verify", code=1)
    assert "the audit was tampered with: sales ledger: at position" in said
    assert "the row was changed" in said
    found = verified(tenant)
    assert found["sales"]["problem"]["kind"] == "AUDIT_PROBLEM_KIND_ROW_CHANGED"
    assert {each["state"] for service, each in found.items() if service != "sales"} == {"AUDIT_STATE_VERIFIED"}

    for table in ("ledger", "seals"):
        as_superuser(platform.state, "contacts", f"DELETE FROM {table} WHERE tenant_id = $1", tenant.tenant)
    kept = json.loads(heads.read_text())["heads"]
    problem = verified(tenant, heads=[each for each in kept if each["service"] == "contacts"])["contacts"]["problem"]
    assert problem["kind"] == "AUDIT_PROBLEM_KIND_CHAIN_TRUNCATED"


def test_who_may_not_read_the_audit_is_refused_and_damaged_tokens_too(platform: Running, tenant: Client) -> None:  # noqa: F811
    made = tenant.post("/v1/api_keys", {"display_name": "Reader", "scopes": ["deals.read"]})
    reader = platform.client(made["secret"], tenant.tenant)
    assert reader.http.post(VERIFY, json={}).status_code == 403
    assert reader.http.get("/v1/audit/heads").status_code == 403
    for body in (
        {"page_token": "damaged"},
        {"heads": [{"service": "payroll", "log": "ledger", "sequence": "1"}]},
        {"heads": [{"service": "sales", "log": "diary", "sequence": "1"}]},
    ):
        refused = tenant.http.post(VERIFY, json=body)
        assert refused.status_code == 400, refused.text


def test_a_service_that_is_down_is_named_and_not_passed(
    platform: Running,
    rapport: Rapport,  # noqa: F811
    tenant: Client,  # noqa: F811
) -> None:
    control.hold(platform.state, "marketing")
    try:
        found = verified(tenant)
        assert found["marketing"]["state"] == "AUDIT_STATE_UNVERIFIED"
        assert "marketing could not be asked" in found["marketing"]["missing"]
        assert found["sales"]["state"] == "AUDIT_STATE_VERIFIED"
        assert "marketing could not be asked" in rapport("audit", "verify", code=3)
        assert tenant.get("/v1/audit/heads")["missing"] == ["marketing"]
    finally:
        control.release(platform.state)
