"""The marketing service on a real server, called as the gateway calls it and fed as the consumer feeds it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from crm.type.v1 import change_pb2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.message import Message

from chassis import contract, ids, migrate
from chassis.access import Access
from chassis.context import Caller
from chassis.events import Change, reactions_of
from chassis.rows import timestamp
from chassis.run import platform_of
from chassis.service import Platform, Server, generated
from chassis.settings import Settings
from deploy.local import postgres
from services.marketing import reactions
from services.marketing.__main__ import application

REACTIONS = reactions_of(reactions)


@dataclass
class Marketing:
    """The service as one tenant sees it."""

    platform: Platform
    server: Server
    tenant: UUID = field(default_factory=uuid4)
    user: str = field(default_factory=lambda: ids.new("user"))

    async def call(self, method: str, request: Message, access: Access | None = None) -> Any:
        """The answer to ``method``, such as ``TouchService/CreateTouch``; raises its Failure."""
        path = f"/crm.marketing.v1.{method}"
        caller = Caller(self.tenant, self.user, frozenset({"*"}), access=access)
        answer = await self.server.handle(path, request.SerializeToString(), {}, 10, caller)
        return generated(contract.load().methods[path].response.DESCRIPTOR.full_name).FromString(answer)

    async def feed(self, changes: Iterable[Change]) -> None:
        """Runs the reactions to the changes, one after the other in one transaction."""
        async with self.platform.db.write(self.tenant) as tx:
            for change in changes:
                for reaction in REACTIONS:
                    if reaction.matches(change.type):
                        await reaction.handler(change, tx)

    def change(self, record: Any, revision: int = 1, verb: str = "updated") -> Change:
        """An event of sales: a record as it was after a change."""
        message = change_pb2.Change(
            event_id=str(ids.new_uuid()),
            type=f"{record.DESCRIPTOR.full_name}.{verb}",
            entity_id=record.id,
            revision=revision,
            after=record.SerializeToString(),
            commit_time=timestamp(datetime.now(UTC)),
        )
        return Change.decode("sales", 1, self.tenant, message.SerializeToString())


def platform(server: postgres.Postgres, directory: Path) -> Platform:
    """A fresh database with the service's tables, and what the service stands on."""
    server.create_databases(["marketing"])
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(key)
    (directory / "trust.json").write_text("{}")
    (directory / "tokens").write_text("ab" * 32)
    settings = Settings.model_validate(
        {
            "database_url": server.dsn_for("marketing", "marketing_app"),
            "worker_database_url": server.dsn_for("marketing", "marketing_worker"),
            "owner_database_url": server.dsn_for("marketing", "marketing_owner"),
            "signing_key_file": directory / "key.pem",
            "trust_file": directory / "trust.json",
            "token_key_file": directory / "tokens",
        }
    )
    migrate.upgrade(settings, application.schema, application.migrations)
    return platform_of(application, settings)
