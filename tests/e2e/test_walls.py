"""The walls between tenants and around services, as the databases and processes themselves keep them."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
from google.protobuf import empty_pb2

from chassis.contract import load
from chassis.settings import KINDS
from tests.running import Client, Running


def ask(dsn: str, statement: str) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(dsn)
        try:
            return [dict(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(run())


def test_the_ledger_can_only_grow(platform: Running) -> None:
    for kind in KINDS:
        found = ask(
            platform.env[f"RAPPORT_{kind.upper()}_DATABASE_URL"],
            "SELECT has_table_privilege('ledger', 'UPDATE') AS u, has_table_privilege('ledger', 'DELETE') AS d,"
            " has_table_privilege('ledger', 'TRUNCATE') AS t",
        )
        assert found == [{"u": False, "d": False, "t": False}]
        rights = ", ".join(f"has_table_privilege('seals', '{each}')" for each in ("INSERT", "UPDATE", "DELETE"))
        for role, may in (("", [False, False, False]), ("WORKER_", [True, False, False])):
            dsn = platform.env[f"RAPPORT_{kind.upper()}_{role}DATABASE_URL"]
            assert ask(dsn, f"SELECT ARRAY[{rights}] AS may") == [{"may": may}]


def test_without_a_tenant_no_row_is_read_and_none_is_written_for_another(platform: Running) -> None:
    client = platform.tenant("Walls")
    client.post("/v1/contacts", {"given_name": "Behind the wall"})
    dsn = platform.env["RAPPORT_CONTACTS_DATABASE_URL"]
    with pytest.raises(asyncpg.PostgresError, match=r"app\.tenant_id"):
        ask(dsn, "SELECT * FROM contacts")

    async def write_as_another() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                await connection.execute("SELECT enter_tenant($1)", uuid4())
                await connection.execute(
                    "INSERT INTO natural_keys (tenant_id, resource, kind, value, id, exclusive)"
                    " VALUES ($1, 'contact', 'k', 'v', $2, true)",
                    client.tenant, uuid4(),
                )  # fmt: skip
        finally:
            await connection.close()

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        asyncio.run(write_as_another())


def service_addresses(platform: Running) -> dict[str, str]:
    return {kind: platform.env[f"RAPPORT_{kind.upper()}_ADDRESS"].split(",")[0] for kind in KINDS if kind != "gateway"}


@pytest.mark.parametrize("method", [each for each in load().methods.values() if each.home != "gateway"],
                         ids=lambda method: method.path.lstrip("/"))  # fmt: skip
def test_a_service_answers_nobody_without_a_token(platform: Running, method: Any) -> None:
    addresses = service_addresses(platform)
    address = addresses.get(method.home, addresses["contacts"])
    for metadata in ((), (("authorization", f"Bearer {platform.env['RAPPORT_API_KEY']}"),)):
        with grpc.insecure_channel(address) as channel:
            call: Any = channel.unary_unary(method.path)
            with pytest.raises(grpc.RpcError) as refused:
                call(empty_pb2.Empty().SerializeToString(), metadata=metadata, timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_serves_one_service_and_no_other(platform: Running) -> None:
    client = platform.tenant("Tokens")
    token = client.post("/v1/tokens", {"audience": "sales"})["token"]
    addresses = service_addresses(platform)

    def call(kind: str, path: str) -> Any:
        with grpc.insecure_channel(addresses[kind]) as channel:
            method: Any = channel.unary_unary(path)
            return method(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=10)

    assert call("sales", "/crm.sales.v1.DealService/ListDeals") == b""
    with pytest.raises(grpc.RpcError) as refused:
        call("contacts", "/crm.contacts.v1.ContactService/ListContacts")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_key_gives_no_more_than_its_scopes(platform: Running) -> None:
    admin = platform.tenant("Scopes")
    made = admin.post("/v1/api_keys", {"display_name": "Reader", "scopes": ["contacts.read"]})
    reader: Client = platform.client(made["secret"], admin.tenant)
    assert reader.get("/v1/contacts") == {"contacts": [], "next_page_token": ""}
    for answer in (
        reader.http.post("/v1/contacts", json={"given_name": "x"}),
        reader.http.get("/v1/deals"),
        reader.http.post("/v1/api_keys", json={"display_name": "More", "scopes": ["*"]}),
        admin.http.post("/v1/tenants", json={"display_name": "Another"}),
    ):
        assert answer.status_code == 403, answer.text
    assert admin.http.delete(f"/v1/api_keys/{made['id']}").is_success


def test_a_revoked_key_works_nowhere_within_a_second(platform: Running) -> None:
    from tests.running import until

    admin = platform.tenant("Revoked")
    made = admin.post("/v1/api_keys", {"display_name": "Short", "scopes": ["contacts.read"]})
    reader = platform.client(made["secret"], admin.tenant)
    reader.get("/v1/contacts")
    assert admin.http.delete(f"/v1/api_keys/{made['id']}").is_success
    until(lambda: reader.http.get("/v1/contacts").status_code == 401, "the key is refused", patience_s=3)
