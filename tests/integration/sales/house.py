"""Sales and contacts on a real PostgreSQL, each behind its own gRPC server or called in-process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from pydantic import SecretStr

from chassis import contract
from chassis.context import Caller
from chassis.ledger import Ledger
from chassis.run import Application, GrpcServing, Process, platform_of
from chassis.search.service import Search
from chassis.service import Server, generated
from chassis.settings import Settings
from deploy.local import postgres
from services.contacts.__main__ import application as contacts_application
from services.sales.__main__ import application as sales_application

EVERYTHING = frozenset({"*"})
APPLICATIONS = (contacts_application, sales_application)


@dataclass
class House:
    """A database server with both databases, and the keys with which the processes trust each other."""

    server: postgres.Postgres
    keys: Path
    contacts_port: int

    def settings(self, name: str) -> Settings:
        """The settings of one process."""
        return Settings(
            database_url=SecretStr(self.server.dsn_for(name, f"{name}_app")),
            worker_database_url=SecretStr(self.server.dsn_for(name, f"{name}_worker")),
            owner_database_url=SecretStr(self.server.dsn_for(name, f"{name}_owner")),
            listen=f"127.0.0.1:{self.contacts_port if name == 'contacts' else 0}",
            contacts_address=f"127.0.0.1:{self.contacts_port}",
            signing_key_file=self.keys / f"{name}.pem",
            trust_file=self.keys / "trust.json",
            token_key_file=self.keys / "token.key",
        )  # type: ignore[call-arg]


@dataclass
class Tenant:
    """One tenant's way into a service, in-process: messages in, messages out, failures as they are raised."""

    server: Server
    id: UUID
    principal: str = "user_01h455vb4pex5vsknk084sn02q"
    scopes: frozenset[str] = EVERYTHING

    async def call(self, method: str, request: Message | None = None, *, timeout_s: float = 10, **fields: Any) -> Any:
        """Calls ``DealService/WinDeal`` or the like. Raises Failure."""
        path = f"/crm.{self.server.platform.kind}.v1.{method}"
        found = contract.load().methods[path]
        made = request or generated(found.descriptor.input_type.full_name)(**fields)
        caller = Caller(self.id, self.principal, self.scopes, "gateway")
        answer = await self.server.handle(path, made.SerializeToString(), {}, timeout_s, caller)
        return generated(found.descriptor.output_type.full_name).FromString(answer)

    async def ledger(self, entity_id: str) -> list[tuple[str, int]]:
        """Verb and revision of what happened to a record, in the order in which it was written."""
        async with self.server.platform.db.read(self.id) as tx:
            ledger = tx.schema.ledger
            found = ledger.select().where(ledger.c.tenant_id == self.id, ledger.c.entity_id == entity_id)
            return [(row.type.rpartition(".")[2], row.revision) for row in await tx.rows(found.order_by(ledger.c.id))]


def make_keys(directory: Path) -> None:
    trust = {}
    for kind, may_call in (("contacts", []), ("sales", ["contacts"])):
        key = Ed25519PrivateKey.generate()
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (directory / f"{kind}.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        trust[kind] = {"public_keys": [public.decode()], "may_call": may_call}
    (directory / "trust.json").write_text(json.dumps(trust))
    (directory / "token.key").write_text("5a" * 32)


def server_of(application: Application, settings: Settings) -> Server:
    platform = platform_of(application, settings)
    return Server(platform, [*application.services, Ledger, Search])


@asynccontextmanager
async def contacts_running(house: House) -> AsyncIterator[Server]:
    """The contacts service behind its gRPC port, for the length of a block."""
    settings = house.settings("contacts")
    server = server_of(contacts_application, settings)
    serving = await GrpcServing(Process(contacts_application, settings, server.platform, server)).start()
    try:
        yield server
    finally:
        await serving.stop()
        await server.platform.db.close()


def in_contacts(server: Server, tenant: Tenant) -> Tenant:
    """The same tenant in contacts."""
    return Tenant(server, tenant.id)


async def until(condition: Any, *, limit_s: float = 15) -> Any:
    """What ``condition`` answers once that is true. Fails after the limit."""
    async with asyncio.timeout(limit_s):
        while not (found := await condition()):
            await asyncio.sleep(0.05)
        return found
