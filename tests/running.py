"""A running platform as tests use it: as a client over REST and gRPC, and as an operator with its databases."""

from __future__ import annotations

import asyncio
import functools
import json
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import httpx2
from google.protobuf import json_format

from chassis import contract, ids
from deploy.local.state import State
from gateway.transcode.writer import Writer

PATIENCE_S = 30.0


@dataclass
class Client:
    """A client with a key. Both ways of calling take and give the same JSON."""

    url: str
    address: str
    key: str
    tenant: UUID
    http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"} if self.key else {}, timeout=30
        )
        weakref.finalize(self, self.http.close)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The JSON answer to a GET that must succeed."""
        return self._good(self.http.get(path, params=query))

    def post(self, path: str, body: Any, **query: Any) -> dict[str, Any]:
        """The JSON answer to a POST that must succeed."""
        return self._good(self.http.post(path, json=body, params=query))

    def patch(self, path: str, body: Any, **query: Any) -> dict[str, Any]:
        """The JSON answer to a PATCH that must succeed."""
        return self._good(self.http.patch(path, json=body, params=query))

    def _good(self, answer: httpx2.Response) -> dict[str, Any]:
        assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def grpc(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of a gRPC call, as JSON. Raises grpc.RpcError."""
        method = contract.load().methods[path]
        message = json_format.ParseDict(request, method.request())
        call: Any = self.channel.unary_unary(path)
        answer = call(message.SerializeToString(), metadata=(("authorization", f"Bearer {self.key}"),), timeout=20)
        return as_json(method.response.FromString(answer))

    @functools.cached_property
    def channel(self) -> Any:
        """A channel that stays open: what each test would spend on one of its own adds up."""
        channel = grpc.insecure_channel(self.address)
        weakref.finalize(self, channel.close)
        return channel


def as_json(message: Any) -> dict[str, Any]:
    """A message as the gateway prints it."""
    shown: dict[str, Any] = Writer().value(message)
    return shown


@dataclass
class Running:
    """The platform that tests run against."""

    state: State
    env: dict[str, str]

    def operator(self) -> Client:
        """A client with the demo tenant's key, which may also make tenants."""
        key = self.env["RAPPORT_API_KEY"]
        tenants = Client(self.env["RAPPORT_URL"], self.env["RAPPORT_GRPC"], key, UUID(int=0)).get("/v1/tenants")
        return self.client(key, ids.decode(tenants["tenants"][0]["id"])[1])

    def client(self, key: str, tenant: UUID) -> Client:
        """A client with this key."""
        return Client(self.env["RAPPORT_URL"], self.env["RAPPORT_GRPC"], key, tenant)

    def tenant(self, name: str) -> Client:
        """A new tenant's administrator."""
        made = self.operator().post("/v1/tenants", {"display_name": name})
        return self.client(made["admin_secret"], ids.decode(made["id"])[1])

    def rows(self, service: str, tenant: UUID, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of a service's database, read as its app role inside a tenant."""
        return asyncio.run(_rows(self.env[f"RAPPORT_{service.upper()}_DATABASE_URL"], tenant, statement, values))

    def ledger(self, service: str, tenant: UUID, entity_id: str) -> list[str]:
        """The types of a record's events, in the order of its revisions."""
        rows = self.rows(service, tenant, "SELECT type FROM ledger WHERE entity_id = $1 ORDER BY revision", entity_id)
        return [row["type"] for row in rows]


async def _rows(dsn: str, tenant: UUID, statement: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(readonly=True):
            await connection.execute("SELECT enter_tenant($1)", tenant)
            return [dict(row) for row in await connection.fetch(statement, *values)]
    finally:
        await connection.close()


def until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S, every_s: float = 0.05) -> Any:
    """The first true answer of ``holds``, asked so often; fails with ``what`` when it has none in time."""
    end = time.monotonic() + patience_s
    while True:
        if found := holds():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"after {patience_s:.0f} s still not: {what}")
        time.sleep(every_s)


def printed(value: Any) -> str:
    """JSON in one line, for messages."""
    return json.dumps(value, ensure_ascii=False)[:400]
