"""A small service of its own on real servers: a ledger that tests commit to, and tables that reactions write to."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import nats as nats_client
from nats.aio.client import Client
from pydantic import SecretStr
from sqlalchemy import BigInteger, Column, LargeBinary, Text, Uuid, insert, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from chassis import contract, ids, migrate, telemetry
from chassis.chain import Log
from chassis.change import Change
from chassis.db import Database, Schema, Time, Tx
from chassis.events import Consumer, Effect, Reaction, Relay, apply_topology
from chassis.settings import Settings
from deploy.local import children, nats, ports, postgres

Part = TypeVar("Part", Relay, Consumer)

LEADS = "crm.sales.v1.Lead.*"
SERVICE = "probe"


class ProbeSettings(Settings):
    """A service's settings, and for how many days it keeps its reads."""

    reads_days: float = 30


def schema() -> Schema:
    probe = Schema(SERVICE)
    probe.table("copies", Column("id", Uuid), Column("revision", BigInteger), Column("name", Text), key=("id",))
    probe.table("entries", Column("event_id", Uuid), Column("type", Text), key=("event_id",))
    # A log whose positions count for each tenant by itself.
    reads = probe.table(
        "reads",
        Column("position", BigInteger),
        Column("reader", Text),
        Column("fields", ARRAY(Text)),
        Column("note", LargeBinary),
        Column("read_time", Time),
        key=("position",),
    )
    sealed = ("tenant_id", "reader", "fields", "note", "read_time")
    probe.seal(Log("reads", reads, sealed, per_tenant=True, time="read_time", kept_days="reads_days"))
    probe.table("counts", Column("name", Text), Column("total", BigInteger), key=("name",))
    return probe


SCHEMA = schema()
COPIES, ENTRIES, COUNTS, READS = (SCHEMA.metadata.tables[name] for name in ("copies", "entries", "counts", "reads"))


async def keep_copy(change: Change, tx: Tx) -> None:
    row = upsert(COPIES).values(
        tenant_id=change.tenant,
        id=change.entity_uuid,
        revision=change.revision,
        name=change.after.display_name,
    )
    await tx.execute(
        row.on_conflict_do_update(
            index_elements=["tenant_id", "id"],
            set_={"revision": row.excluded.revision, "name": row.excluded.name},
            where=row.excluded.revision > COPIES.c.revision,
        )
    )


async def keep_entry(change: Change, tx: Tx) -> None:
    row = upsert(ENTRIES).values(tenant_id=change.tenant, event_id=change.event_id, type=change.type)
    await tx.execute(row.on_conflict_do_nothing())


async def count(change: Change, tx: Tx) -> None:
    row = upsert(COUNTS).values(tenant_id=change.tenant, name=change.verb, total=1)
    await tx.execute(
        row.on_conflict_do_update(
            index_elements=["tenant_id", "name"], set_={"total": COUNTS.c.total + row.excluded.total}
        )
    )


REACTIONS = [
    Reaction(LEADS, Effect.STATE, keep_copy),
    Reaction(LEADS, Effect.LOG, keep_entry),
    Reaction(LEADS, Effect.ACT, count),
]


async def until(condition: Callable[[], Awaitable[Any] | Any], limit_s: float = 30.0) -> Any:
    """Asks again until the answer is true, and returns it; fails after ``limit_s`` seconds."""
    end = time.monotonic() + limit_s
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"not so within {limit_s} s"
        await asyncio.sleep(0.02)


@dataclass
class Broker:
    """A NATS server that can be killed and started again where it was."""

    directory: Path
    server: nats.Nats

    async def kill(self) -> None:
        self.server.process.kill()
        await until(lambda: self.server.process.poll() is not None)

    def wipe(self) -> None:
        for path in sorted(self.server.store.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    async def start(self) -> None:
        command: list[str | Path] = [nats.binary(), "-c", self.directory / "nats.conf"]
        self.server.process = children.spawn(command, self.directory / "nats.log")
        await until(lambda: ports.accepts(self.server.port))


class Stage:
    """One service: its database, its ledger and the server its events go through."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self.settings = settings
        self.broker = broker
        self.db = Database(settings, SCHEMA)
        self.tenant = uuid4()
        self._running: list[tuple[Relay | Consumer, asyncio.Task[None]]] = []

    def environment(self) -> dict[str, str]:
        """The settings as a process gets them."""
        given = self.settings.model_dump(exclude_unset=True)
        plain = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in given.items()
        }
        return {f"RAPPORT_{name.upper()}": value for name, value in plain.items()}

    @property
    def nats_url(self) -> str:
        return self.settings.nats_url.get_secret_value()

    async def topology(self, reactions: Sequence[Reaction] = REACTIONS) -> None:
        await apply_topology(self.nats_url, {SERVICE: reactions}, wait_s=10)

    async def relay(self, **changed: Any) -> Relay:
        relay = Relay(self.db, self.settings.model_copy(update=changed))
        return self._run(relay)

    async def consumer(self, reactions: Sequence[Reaction] = REACTIONS, **options: Any) -> Consumer:
        consumer = Consumer(SERVICE, self.db, self.settings, reactions, **options)
        return self._run(consumer)

    def _run(self, part: Part) -> Part:
        self._running.append((part, asyncio.create_task(part.run())))
        return part

    async def close(self) -> None:
        for part, task in self._running:
            if not task.done():
                await part.stop()
            await task
        await self.db.close()

    async def commit(
        self, count: int = 1, *, verb: str = "updated", lead: UUID | None = None, tenant: UUID | None = None
    ) -> list[UUID]:
        """Commits ledger rows, one revision after the other of ``lead`` or each of a lead of its own."""
        lead_type = contract.load().message("crm.sales.v1.Lead")
        rows: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            entity = ids.encode("lead", lead or ids.new_uuid())
            after = lead_type(id=entity, display_name=f"Lead {number}")
            rows.append(
                {
                    "tenant_id": tenant or self.tenant,
                    "event_id": ids.new_uuid(),
                    "entity_id": entity,
                    "revision": number if lead else 1,
                    "type": f"crm.sales.v1.Lead.{verb}",
                    "before": b"",
                    "after": after.SerializeToString(),
                    "changed": ["display_name"],
                    "actor": "user_test",
                    "trace_context": telemetry.traceparent(),
                }
            )
        async with self.db.write(tenant or self.tenant) as tx:
            now = await tx.now()
            await tx.execute_many(
                insert(SCHEMA.ledger), [{**row, "occur_time": now, "commit_time": now} for row in rows]
            )
        return [row["event_id"] for row in rows]

    async def ledger(self) -> list[Any]:
        async with self.db.worker() as connection:
            order = SCHEMA.ledger.c.position, SCHEMA.ledger.c.id
            return list(await connection.rows(select(SCHEMA.ledger).order_by(*order)))

    async def positions(self) -> list[int | None]:
        return [row.position for row in await self.ledger()]

    async def published(self) -> bool:
        """Whether every row of the ledger is numbered and the stream has it."""
        async with self.db.worker() as connection:
            watermark = (await connection.rows(select(SCHEMA.relay.c.watermark)))[0].watermark
        return all(row.position is not None and row.position <= watermark for row in await self.ledger())

    async def count(self, table: Any) -> int:
        async with self.db.read(self.tenant) as tx:
            return len(await tx.rows(select(table)))

    async def total(self, name: str = "updated") -> int:
        async with self.db.read(self.tenant) as tx:
            rows = await tx.rows(select(COUNTS.c.total).where(COUNTS.c.name == name))
            return int(rows[0].total) if rows else 0

    async def client(self) -> Client:
        return await nats_client.connect(self.nats_url)

    async def stream(self, name: str = "CRM") -> list[Any]:
        """Every message that a stream holds, oldest first."""
        client = await self.client()
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(name)).state
            if not state.messages:
                return []
            return [await jetstream.get_msg(name, seq) for seq in range(state.first_seq, state.last_seq + 1)]
        finally:
            await client.close()


async def make_database(server: postgres.Postgres, name: str) -> None:
    """A database with the probe's tables, walls and grants."""
    for role in postgres.ROLES:
        server.passwords[f"{name}_{role}"] = "secret"
    await postgres.create_databases(server.dsn_for("postgres"), [name], server.passwords)
    url = make_url(server.dsn_for(name, f"{name}_owner")).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(SCHEMA.metadata.create_all)
        await connection.run_sync(migrate.secure, SCHEMA, f"{name}_app", f"{name}_worker")
    await engine.dispose()


def settings_for(server: postgres.Postgres, name: str, broker: nats.Nats, **more: Any) -> Settings:
    nowhere = "/nonexistent"  # nothing here signs or trusts
    return ProbeSettings.model_validate(
        {
            "database_url": server.dsn_for(name, f"{name}_app"),
            "worker_database_url": server.dsn_for(name, f"{name}_worker"),
            "nats_url": broker.url,
            "signing_key_file": nowhere,
            "trust_file": nowhere,
            "token_key_file": nowhere,
        }
        | more
    )
