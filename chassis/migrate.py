"""Brings a service's database to the shape its tables declare, and puts the tenant walls and grants in place."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from alembic import command, op
from alembic import context as alembic_context
from alembic.config import Config
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    Uuid,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from chassis import ids
from chassis.db import Schema
from chassis.search.fill import fill
from chassis.settings import Settings

# One migration of a database at a time; the number only has to be the same everywhere.
_LOCK = 7_241_001
# Ledger partitions are made this far ahead; each start-up makes what is missing.
_MONTHS_AHEAD = 12

Columns = Iterable[tuple[str, tuple[str, ...]]]

_ENTER_TENANT = """
CREATE OR REPLACE FUNCTION enter_tenant(tenant uuid) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL app.tenant_id = %L', tenant);
    RETURN clock_timestamp();
END $$
"""


def upgrade(settings: Settings, schema: Schema, migrations: Path) -> None:
    """Runs the migrations that are missing, then `secure`. Waits for another migration of the same database."""
    asyncio.run(_on_owner(settings, lambda connection: _upgrade(connection, settings, schema, migrations)))


def revise(settings: Settings, schema: Schema, migrations: Path, message: str) -> None:
    """Writes a new migration: what differs between the tables and the database."""

    def write(connection: Connection) -> None:
        config = _config(connection, schema, migrations)
        command.revision(config, message=message, autogenerate=True)

    asyncio.run(_on_owner(settings, write))


def reindex(settings: Settings, schema: Schema) -> None:
    """Makes the index of text search anew from the records, in one transaction."""

    def make(connection: Connection) -> None:
        fill(connection, schema.name)
        _secure(connection, settings, schema)

    asyncio.run(_on_owner(settings, make))


async def _on_owner(settings: Settings, do: Callable[[Connection], None]) -> None:
    if settings.owner_database_url is None:
        raise SystemExit("RAPPORT_OWNER_DATABASE_URL is not set")
    url = make_url(settings.owner_database_url.get_secret_value()).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            await connection.commit()
            await connection.run_sync(do)
            await connection.commit()
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, settings: Settings, schema: Schema, migrations: Path) -> None:
    command.upgrade(_config(connection, schema, migrations), "head")
    _secure(connection, settings, schema)


def _secure(connection: Connection, settings: Settings, schema: Schema) -> None:
    app = make_url(settings.database_url.get_secret_value()).username
    worker_url = settings.worker_database_url
    worker = make_url(worker_url.get_secret_value()).username if worker_url else None
    assert app is not None
    secure(connection, schema, app, worker)


def _config(connection: Connection, schema: Schema, migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    return config


def run_env() -> None:
    """What every service's ``migrations/env.py`` calls."""
    config = alembic_context.config
    schema: Schema = config.attributes["schema"]
    alembic_context.configure(
        connection=config.attributes["connection"],
        target_metadata=schema.metadata,
        include_name=lambda name, kind, _: not (kind == "table" and str(name).startswith("ledger_")),
        compare_type=True,
    )
    with alembic_context.begin_transaction():
        alembic_context.run_migrations()


def replace_indexes(new: Columns, gone: Columns) -> None:
    """Makes indexes that begin with the tenant and end in the id, and drops those of the tenant and the columns alone.

    For a migration. Tables with the columns in between.
    """
    for table, columns in new:
        names = ["tenant_id", *columns, "id"]
        op.create_index(op.f(f"{table}_{'_'.join(names)}_ix"), table, names)
    for table, columns in gone:
        op.drop_index(op.f(f"{table}_tenant_id_{'_'.join(columns)}_ix"), table)


def add_records(connection: Connection, tables: Mapping[str, str]) -> None:
    """Gives tables of records their ``record``, filled with the last state that the ledger has of each record.

    For a migration. ``tables`` has their names by the prefix of their records' ids. The walls of these tables are
    open to the owner until `secure` closes them again.
    """
    run = connection.exec_driver_sql
    for table in (*tables.values(), "ledger"):
        run(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for table in tables.values():
        run(f"ALTER TABLE {table} ADD COLUMN record bytea")
    last = text(
        "SELECT DISTINCT ON (tenant_id, entity_id) tenant_id, entity_id, after FROM ledger"
        " ORDER BY tenant_id, entity_id, revision DESC"
    )
    with connection.execute(last.execution_options(yield_per=1_000)) as rows:
        for part in rows.partitions():
            filled: dict[str, list[dict[str, object]]] = {}
            for row in part:
                prefix, uuid = ids.decode(row.entity_id)
                filled.setdefault(prefix, []).append({"tenant": row.tenant_id, "id": uuid, "record": row.after})
            for prefix in filled.keys() & tables.keys():
                fill = text(f"UPDATE {tables[prefix]} SET record = :record WHERE tenant_id = :tenant AND id = :id")  # noqa: S608
                connection.execute(fill, filled[prefix])
    for table in tables.values():
        run(f"ALTER TABLE {table} ALTER COLUMN record SET NOT NULL")


def add_search(connection: Connection, home: str) -> None:
    """Makes the index of text search and fills it from the records. For a migration of the service ``home``."""
    op.create_table(
        "search_terms",
        Column("tenant_id", Uuid, nullable=False),
        Column("resource", Text, nullable=False),
        Column("term", Text(collation="C"), nullable=False),
        Column("id", Uuid, nullable=False),
        Column("owner_id", Uuid),
        PrimaryKeyConstraint("tenant_id", "resource", "term", "id", name=op.f("search_terms_pk")),
    )
    op.create_table(
        "search_spellings",
        Column("tenant_id", Uuid, nullable=False),
        Column("spelling", Text(collation="C"), nullable=False),
        Column("word", Text(collation="C"), nullable=False),
        Column("id", Uuid, nullable=False),
        PrimaryKeyConstraint("tenant_id", "spelling", "word", "id", name=op.f("search_spellings_pk")),
    )
    fill(connection, home)


def add_terms_of_records() -> None:
    """Makes the index by which it is looked up whether a record has a term. For a migration."""
    op.create_index(op.f("search_terms_tenant_id_id_term_ix"), "search_terms", ["tenant_id", "id", "term"])


def add_seals() -> None:
    """Makes the table of seals, the ledger's places for the digests of erased bodies, and the index that a tenant's
    ledger is read by. For a migration.
    """
    op.create_table(
        "seals",
        Column("tenant_id", Uuid, nullable=False),
        Column("log", Text, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("first_position", BigInteger, nullable=False),
        Column("last_position", BigInteger, nullable=False),
        Column("row_count", BigInteger, nullable=False),
        Column("seal_time", DateTime(timezone=True), nullable=False),
        Column("entries", LargeBinary, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        PrimaryKeyConstraint("tenant_id", "log", "sequence", name=op.f("seals_pk")),
    )
    op.create_index("seals_position_ix", "seals", ["log", "last_position"])
    for name in ("before_digest", "after_digest"):
        op.add_column("ledger", Column(name, LargeBinary))
    given = text("position IS NOT NULL")
    op.create_index("ledger_tenant_position_ix", "ledger", ["tenant_id", "position"], postgresql_where=given)


def add_ledger_times() -> None:
    """Makes the index by which a tenant's ledger is read by time. For a migration."""
    op.create_index(op.f("ledger_tenant_id_commit_time_id_ix"), "ledger", ["tenant_id", "commit_time", "id"])


def secure(connection: Connection, schema: Schema, app: str, worker: str | None) -> None:
    """Puts row security on every tenant table, grants each role what it needs, and makes ledger partitions.

    ``app`` and ``worker`` are role names. May run any number of times.
    """
    run = connection.exec_driver_sql
    run(_ENTER_TENANT)
    run(f'GRANT USAGE ON SCHEMA public TO "{app}"')
    partitions = list(_partitions(dt.datetime.now(dt.UTC)))
    for name, bounds in partitions:
        run(f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF ledger {bounds}")
    for name in [*schema.metadata.tables, *(name for name, _ in partitions)]:
        if name in schema.shared:
            run(f'GRANT {schema.shared_rights.get(name, "SELECT")} ON {name} TO "{app}"')
            continue
        run(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        run(f"DROP POLICY IF EXISTS tenant_wall ON {name}")
        # As a query of its own it is evaluated when rows are, not when the statement is planned: one statement may
        # enter the tenant and read. It raises where no tenant was entered.
        wall = "tenant_id = (SELECT current_setting('app.tenant_id')::uuid)"
        run(f'CREATE POLICY tenant_wall ON {name} TO "{app}" USING ({wall})')
    for name in schema.metadata.tables:
        if name not in schema.shared:
            rights = schema.rights.get(name, "SELECT, INSERT, UPDATE, DELETE")
            run(f'GRANT {rights} ON {name} TO "{app}"')
    run("INSERT INTO relay (id, last_position, watermark, stream_seq) VALUES (1, 0, 0, 0) ON CONFLICT DO NOTHING")
    if worker is not None:
        _secure_worker(run, schema, worker, [name for name, _ in partitions])


def _secure_worker(run: Callable[[str], object], schema: Schema, worker: str, partitions: list[str]) -> None:
    run(f'GRANT USAGE ON SCHEMA public TO "{worker}"')
    for name, rights in schema.worker.items():
        run(f'GRANT {rights} ON {name} TO "{worker}"')
        if name in schema.shared:
            continue
        for table in [name, *(partitions if name == "ledger" else ())]:
            run(f"DROP POLICY IF EXISTS all_tenants ON {table}")
            run(f'CREATE POLICY all_tenants ON {table} TO "{worker}" USING (true)')


def _partitions(now: dt.datetime) -> Iterable[tuple[str, str]]:
    first = now.year * 12 + now.month - 1
    for month in range(first, first + _MONTHS_AHEAD + 1):
        start, end = (f"{each // 12}-{each % 12 + 1:02d}-01 00:00:00+00" for each in (month, month + 1))
        yield f"ledger_{month // 12}_{month % 12 + 1:02d}", f"FOR VALUES FROM ('{start}') TO ('{end}')"
    # Catches what lies outside, so that a write never fails for want of a partition.
    yield "ledger_default", "DEFAULT"
