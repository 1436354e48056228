"""A service's own PostgreSQL database: its tables, and transactions that stand inside one tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Row, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql import Executable

from chassis import context, contract, telemetry
from chassis.errors import Aborted, DeadlineExceeded, Failure, Internal, Invalid, Reason, Unavailable
from chassis.rows import columns_of
from chassis.settings import Settings

Time: Final = DateTime(timezone=True)
# How long a statement may take where no caller's deadline is shorter, in milliseconds.
STATEMENT_LIMIT_MS: Final = 5_000
_NAMING: Final = {
    "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    "uq": "%(table_name)s_%(column_0_N_name)s_uq",
    "pk": "%(table_name)s_pk",
}

T = TypeVar("T")
Write = Callable[[list[T], "Tx"], Awaitable[None]]


class Schema:
    """The tables of one service. Every one but those listed in ``shared`` belongs to tenants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.metadata = MetaData(naming_convention=_NAMING)
        # Tables without tenant, by name, with the reason why they have none.
        self.shared: dict[str, str] = {}
        # What the app role may do to one of them beyond reading it.
        self.shared_rights: dict[str, str] = {}
        # Tables of which the worker role sees every tenant's rows, with what it may do to them.
        self.worker: dict[str, str] = {}
        self.ledger = self._ledger()
        self.relay = self._relay()
        self.inbox = self.table(
            "inbox", Column("consumer", Text), Column("event_id", Uuid), key=("consumer", "event_id")
        )
        self.worker["inbox"] = "SELECT, DELETE"
        self.idempotency = self._idempotency()
        self.natural_keys = self._natural_keys()

    def record(self, message: type[Message], *items: SchemaItem, transient: Iterable[str] = ()) -> Table:
        """The table of a resource, its columns made from the message's fields.

        ``transient`` names fields that are never kept; ``items`` are indexes and further columns.
        """
        columns = columns_of(contract.descriptor_of(message), frozenset(transient))
        name = contract.load().by_message[message.DESCRIPTOR.full_name].plural
        return self.table(name, *columns, Column("revision", BigInteger, nullable=False), *items, key=("id",))

    def table(self, name: str, *items: SchemaItem, key: Sequence[str]) -> Table:
        """A table of tenants' rows; its primary key is the tenant and ``key``."""
        return Table(
            name,
            self.metadata,
            Column("tenant_id", Uuid, nullable=False),
            *items,
            PrimaryKeyConstraint("tenant_id", *key),
        )

    def _ledger(self) -> Table:
        self.worker["ledger"] = "SELECT, UPDATE (position, stream_seq)"
        table = Table(
            "ledger",
            self.metadata,
            Column("tenant_id", Uuid, nullable=False),
            Column("id", BigInteger, Identity(always=True), nullable=False),
            Column("event_id", Uuid, nullable=False),
            Column("entity_id", Text, nullable=False),
            Column("revision", BigInteger, nullable=False),
            Column("type", Text, nullable=False),
            Column("before", LargeBinary, nullable=False),
            Column("after", LargeBinary, nullable=False),
            Column("changed", ARRAY(Text), nullable=False),
            Column("actor", Text, nullable=False),
            Column("cause_event_id", Uuid),
            Column("request_id", Uuid),
            Column("trace_context", Text, nullable=False),
            Column("occur_time", Time, nullable=False),
            Column("commit_time", Time, nullable=False),
            Column("position", BigInteger),
            Column("stream_seq", BigInteger),
            PrimaryKeyConstraint("tenant_id", "id", "commit_time"),
            postgresql_partition_by="RANGE (commit_time)",
        )
        Index(None, table.c.tenant_id, table.c.entity_id, table.c.revision)
        # The relay's two: rows without a position, and rows by position. It works for all tenants at once.
        Index("ledger_unnumbered_ix", table.c.id, postgresql_where=table.c.position.is_(None))
        Index("ledger_position_ix", table.c.position)
        return table

    def _relay(self) -> Table:
        self.shared["relay"] = "one row: how far the ledger is numbered and published"
        self.worker["relay"] = "SELECT, UPDATE"
        return Table(
            "relay",
            self.metadata,
            Column("id", SmallInteger, primary_key=True, autoincrement=False),
            Column("last_position", BigInteger, nullable=False),
            Column("watermark", BigInteger, nullable=False),
            Column("stream_seq", BigInteger, nullable=False),
            Column("event_id", Uuid),
        )

    def _idempotency(self) -> Table:
        self.worker["idempotency"] = "SELECT, DELETE"
        return self.table(
            "idempotency",
            Column("principal_id", Text, nullable=False),
            Column("method", Text, nullable=False),
            Column("request_id", Uuid, nullable=False),
            Column("digest", LargeBinary, nullable=False),
            Column("response", LargeBinary, nullable=False),
            Column("expire_time", Time, nullable=False),
            key=("principal_id", "method", "request_id"),
        )

    def _natural_keys(self) -> Table:
        table = self.table(
            "natural_keys",
            Column("resource", Text, nullable=False),
            Column("kind", Text, nullable=False),
            Column("value", Text, nullable=False),
            Column("id", Uuid, nullable=False),
            Column("exclusive", Boolean, nullable=False),
            key=("resource", "kind", "value", "id"),
        )
        Index(
            "natural_keys_exclusive_uq",
            *(table.c[name] for name in ("tenant_id", "resource", "kind", "value")),
            unique=True,
            postgresql_where=table.c.exclusive,
        )
        return table


class Tx:
    """A transaction inside one tenant. Statements see that tenant's rows and no others."""

    def __init__(self, connection: AsyncConnection, tenant: UUID, schema: Schema) -> None:
        self.tenant = tenant
        self.schema = schema
        self._connection = connection
        self._now: datetime | None = None
        self._gathered: dict[Write[Any], list[Any]] = {}

    async def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Runs a statement with ``tenant`` bound, and says how many rows it touched."""
        result = await self._connection.execute(statement, {"tenant": self.tenant, **(parameters or {})})
        return int(result.rowcount)

    async def execute_many(self, statement: Executable, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Runs a statement once for each mapping, in one round trip."""
        if parameters:
            await self._connection.execute(statement, [{"tenant": self.tenant, **each} for each in parameters])

    async def rows(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        """The rows that a statement returns, with ``tenant`` bound."""
        result = await self._connection.execute(statement, {"tenant": self.tenant, **(parameters or {})})
        return result.fetchall()

    async def now(self) -> datetime:
        """The database's clock, read once: the commit time of what this transaction makes."""
        if self._now is None:
            result = await self._connection.execute(text("SELECT clock_timestamp()"))
            self._now = result.scalar_one()
        return self._now

    def gather(self, write: Write[T], item: T) -> None:
        """Has ``write`` called once before the commit, with all the items gathered for it.

        So that reactions to many events, which share a transaction, share their statements too.
        """
        self._gathered.setdefault(write, []).append(item)

    async def write_gathered(self) -> None:
        """Writes what was gathered."""
        for write, items in self._gathered.items():
            await write(items, self)

    def saw_clock(self, now: datetime) -> None:
        """Takes the clock that a locking read brought along: later than any writer it waited for."""
        if self._now is None or now > self._now:
            self._now = now


class Database:
    """The connections of one process to its service's database."""

    def __init__(self, settings: Settings, schema: Schema) -> None:
        self.schema = schema
        self._app = _engine(settings.database_url.get_secret_value(), settings.pool_size, schema.name)
        self._worker: AsyncEngine | None = None
        if settings.worker_database_url is not None:
            self._worker = _engine(settings.worker_database_url.get_secret_value(), 3, f"{schema.name}-worker")

    @asynccontextmanager
    async def read(self, tenant: UUID) -> AsyncIterator[Tx]:
        """A read-only transaction of one tenant."""
        async with self._transaction(tenant, "BEGIN READ ONLY") as tx:
            yield tx

    @asynccontextmanager
    async def write(self, tenant: UUID) -> AsyncIterator[Tx]:
        """A transaction of one tenant that commits at the end of the block and rolls back on any exception."""
        async with self._transaction(tenant, "BEGIN") as tx:
            yield tx

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of the worker role, which sees all tenants in the few tables that are declared so."""
        if self._worker is None:
            raise RuntimeError("RAPPORT_WORKER_DATABASE_URL is not set")
        with translated():
            async with _transaction(self._worker, "BEGIN") as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self, tenant: UUID, begin: str) -> AsyncIterator[Tx]:
        # One round trip. The driver takes no parameters in a batch; a UUID's text is safe in one.
        enter = f"SELECT enter_tenant('{UUID(str(tenant))}')"
        with translated():
            async with _transaction(
                self._app, f"{begin}; SET LOCAL statement_timeout = {_statement_limit_ms()}; {enter}"
            ) as connection:
                tx = Tx(connection, tenant, self.schema)
                yield tx
                await tx.write_gathered()

    async def ping(self) -> None:
        """Raises Unavailable where the database cannot be reached within a second."""
        with translated():
            async with asyncio.timeout(1), self._app.connect() as connection:
                await _driver(connection, "SELECT 1")

    async def close(self) -> None:
        """Closes every connection."""
        await self._app.dispose()
        if self._worker is not None:
            await self._worker.dispose()


def _engine(dsn: str, pool_size: int, name: str) -> AsyncEngine:
    url = make_url(dsn).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(
        url,
        # The transaction is begun by hand, together with entering the tenant; see Database._transaction.
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_recycle=1800,
        pool_use_lifo=True,
        connect_args={
            "timeout": 2,
            # Without it a dead peer holds a call far beyond its deadline (MagicStack/asyncpg #1326).
            "command_timeout": STATEMENT_LIMIT_MS / 1000 + 1,
            "server_settings": {
                "application_name": f"rapport-{name}",
                "statement_timeout": str(STATEMENT_LIMIT_MS),
                "lock_timeout": "4000",
                "idle_in_transaction_session_timeout": "10000",
                "timezone": "UTC",
            },
        },
    )

    @event.listens_for(engine.sync_engine, "handle_error")
    def _hide_parameters(error: Any) -> None:
        # Values may be personal, and this text could reach a log.
        if isinstance(error.sqlalchemy_exception, DBAPIError):
            error.sqlalchemy_exception.hide_parameters = True

    telemetry.instrument(engine)
    return engine


def _statement_limit_ms() -> int:
    call = context.current_or_none()
    if call is None:
        return STATEMENT_LIMIT_MS
    return max(1, min(STATEMENT_LIMIT_MS, int(call.remaining_s() * 1000)))


async def _driver(connection: AsyncConnection, script: str) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.execute(script)


@asynccontextmanager
async def _transaction(engine: AsyncEngine, begin: str) -> AsyncIterator[AsyncConnection]:
    """A connection inside the transaction that ``begin`` starts; it commits at the end of the block.

    A pool does not notice that its server was restarted. So a connection that turns out dead before anything was
    done on it is thrown away and the next one taken.
    """
    for attempts_left in reversed(range(engine.pool.size() + 1)):  # type: ignore[attr-defined]
        async with engine.connect() as connection:
            try:
                await _driver(connection, begin)
            except BaseException as error:
                await asyncio.shield(connection.invalidate())
                if attempts_left and _is_disconnect(error):
                    continue
                raise
            try:
                yield connection
                await _driver(connection, "COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise
            return


async def _roll_back(connection: AsyncConnection) -> None:
    """Ends the transaction come what may; a connection that cannot is thrown away, never handed on inside one.

    Such a connection is no failure of its own: what ended the transaction is what the caller hears of.
    """
    if connection.invalidated:
        return  # the driver gave up a statement that was cancelled, and its connection with it
    try:
        await asyncio.shield(_driver(connection, "ROLLBACK"))
    except BaseException as error:
        await asyncio.shield(connection.invalidate())
        if not isinstance(error, Exception):
            raise


_CLASSES: Final[tuple[tuple[tuple[str, ...], type[Failure], Any, str], ...]] = (
    (
        ("40001", "40P01", "55P03"),
        Aborted,
        Reason.REASON_CONFLICT,
        "another writer holds the record; try again",
    ),
    (("57014",), DeadlineExceeded, Reason.REASON_DEADLINE_EXCEEDED, "the database had not answered in time"),
    (
        ("53", "57P", "08", "25P03"),
        Unavailable,
        Reason.REASON_UNAVAILABLE,
        "the database cannot be reached; try again",
    ),
    (
        ("22P05", "22021", "22P02", "22003", "22008"),
        Invalid,
        Reason.REASON_FIELD_INVALID,
        "a value cannot be stored",
    ),
)


def failure_of(error: BaseException) -> Failure | None:
    """The failure that a database error means to a caller, by its SQLSTATE; None where it is a fault of ours."""
    state = _sqlstate(error)
    for prefixes, kind, reason, message in _CLASSES:
        if state.startswith(prefixes):
            return kind(reason, message, retry_s=0.1 if kind in (Unavailable, Aborted) else None)
    if isinstance(error, (PoolTimeout, OSError, TimeoutError, InterfaceError)) or _is_disconnect(error):
        return Unavailable(Reason.REASON_UNAVAILABLE, "the database cannot be reached; try again", retry_s=0.1)
    return None


def constraint_of(error: BaseException) -> str:
    """The name of the unique constraint that an error says was broken; empty for other errors."""
    original = _original(error)
    return str(getattr(original, "constraint_name", "") or "") if _sqlstate(error) == "23505" else ""


def _original(error: BaseException) -> BaseException:
    original = getattr(error, "orig", None) or error
    return getattr(original, "__cause__", None) or original


def _sqlstate(error: BaseException) -> str:
    return str(getattr(_original(error), "sqlstate", "") or "")


def _is_disconnect(error: BaseException) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # InternalClientError: a connection that died in the middle of an operation is used once more.
    lost = asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError, ConnectionError
    return isinstance(_original(error), lost)


class translated:
    """Turns database errors that a caller can act on into failures; lets the others, faults of ours, through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Failure) or not isinstance(error, Exception):
            return
        if (failure := failure_of(error)) is not None:
            raise failure from error
        if _sqlstate(error) in ("42704", "42501"):
            raise Internal(Reason.REASON_INTERNAL, "the tenant wall refused a statement") from error
