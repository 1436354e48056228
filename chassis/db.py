"""A service's own PostgreSQL database: its tables, and transactions that stand inside one tenant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from pydantic import SecretStr
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
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql import Executable

from chassis import context, contract
from chassis.chain import Log
from chassis.errors import Aborted, DeadlineExceeded, Failure, Internal, Invalid, Reason, Unavailable
from chassis.rows import columns_of
from chassis.settings import Settings
from chassis.sql import Connection, Parameters, Pool, Row, is_disconnect, prepared

Time: Final = DateTime(timezone=True)
# How long a statement may take where no caller's deadline is shorter, in milliseconds.
STATEMENT_LIMIT_MS: Final = 5_000
# How long a reading of the database's clock is carried on; clocks of one kind part by microseconds meanwhile.
_CLOCK_LIFE_S: Final = 1.0
_CLOCK: Final = "SELECT clock_timestamp()"
_NAMING: Final = {
    "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    "uq": "%(table_name)s_%(column_0_N_name)s_uq",
    "pk": "%(table_name)s_pk",
}

# What is sealed of a ledger's row beside its position, in this order (docs/audit.md).
_SEALED: Final = (
    "tenant_id", "event_id", "entity_id", "revision", "type", "before", "after", "changed", "actor", "cause_event_id",
    "request_id", "trace_context", "occur_time", "commit_time",
)  # fmt: skip

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
        # What the app role may do to tables of tenants that are not to be changed or not to be written by it.
        self.rights: dict[str, str] = {}
        # What is sealed.
        self.logs: list[Log] = []
        self.seals = self._seals()
        self.ledger = self._ledger()
        self.relay = self._relay()
        self.inbox = self.table(
            "inbox", Column("consumer", Text), Column("event_id", Uuid), key=("consumer", "event_id")
        )
        self.worker["inbox"] = "SELECT, DELETE"
        self.idempotency = self._idempotency()
        self.natural_keys = self._natural_keys()
        # Both are compared byte by byte, so that the beginning of a text is a piece of an index.
        self.search_terms = self.table(
            "search_terms",
            Column("resource", Text, nullable=False),
            Column("term", Text(collation="C"), nullable=False),
            Column("id", Uuid, nullable=False),
            Column("owner_id", Uuid),
            key=("resource", "term", "id"),
        )
        # What a record has: whether it has a second word too.
        Index(None, self.search_terms.c.tenant_id, self.search_terms.c.id, self.search_terms.c.term)
        self.worker["search_terms"] = "SELECT"
        self.worker["search_spellings"] = "SELECT, DELETE"
        # A word by its beginning and by what is left of that without a letter or two; the id is of a record with it.
        self.search_spellings = self.table(
            "search_spellings",
            Column("spelling", Text(collation="C"), nullable=False),
            Column("word", Text(collation="C"), nullable=False),
            Column("id", Uuid, nullable=False),
            key=("spelling", "word", "id"),
        )

    def record(self, message: type[Message], *items: SchemaItem, transient: Iterable[str] = ()) -> Table:
        """The table of a resource: its message as ``record``, and columns made from the message's fields.

        The record is what reads give; the columns are for filters, order and keys.
        ``transient`` names fields that are never kept; ``items`` are indexes and further columns.
        """
        columns = columns_of(contract.descriptor_of(message), frozenset(transient))
        name = contract.load().by_message[message.DESCRIPTOR.full_name].plural
        kept = (Column("revision", BigInteger, nullable=False), Column("record", LargeBinary, nullable=False))
        return self.table(name, *columns, *kept, *items, key=("id",))

    def table(self, name: str, *items: SchemaItem, key: Sequence[str]) -> Table:
        """A table of tenants' rows; its primary key is the tenant and ``key``."""
        return Table(
            name,
            self.metadata,
            Column("tenant_id", Uuid, nullable=False),
            *items,
            PrimaryKeyConstraint("tenant_id", *key),
        )

    def seal(self, log: Log) -> None:
        """Has a table's rows sealed: see `chassis.chain.Log`. The app role may add rows to it, and no more."""
        self.logs.append(log)
        self.rights[log.table.name] = "SELECT, INSERT"
        self.worker.setdefault(log.table.name, "SELECT")

    def _seals(self) -> Table:
        # The sealer writes as the worker: whoever writes rows cannot seal them.
        self.rights["seals"] = "SELECT"
        self.worker["seals"] = "SELECT, INSERT"
        table = self.table(
            "seals",
            Column("log", Text, nullable=False),
            Column("sequence", BigInteger, nullable=False),
            Column("first_position", BigInteger, nullable=False),
            Column("last_position", BigInteger, nullable=False),
            Column("row_count", BigInteger, nullable=False),
            Column("seal_time", Time, nullable=False),
            # Each row's position and digest, so that what is wrong can be named.
            Column("entries", LargeBinary, nullable=False),
            Column("hash", LargeBinary, nullable=False),
            key=("log", "sequence"),
        )
        # How far a log is sealed, over all tenants.
        Index("seals_position_ix", table.c.log, table.c.last_position)
        return table

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
            # The SHA-256 of a body that was erased, so that the row's seal still holds; empty where it is there.
            Column("before_digest", LargeBinary),
            Column("after_digest", LargeBinary),
            PrimaryKeyConstraint("tenant_id", "id", "commit_time"),
            postgresql_partition_by="RANGE (commit_time)",
        )
        Index(None, table.c.tenant_id, table.c.entity_id, table.c.revision)
        Index(None, table.c.tenant_id, table.c.commit_time, table.c.id)
        # The relay's two: rows without a position, and rows by position. It works for all tenants at once.
        Index("ledger_unnumbered_ix", table.c.id, postgresql_where=table.c.position.is_(None))
        Index("ledger_position_ix", table.c.position)
        # What a tenant's ledger is read by in order, by subscribers and for its seals.
        Index(
            "ledger_tenant_position_ix",
            table.c.tenant_id,
            table.c.position,
            postgresql_where=table.c.position.is_not(None),
        )
        self.seal(Log("ledger", table, _SEALED, bodies={"before": "before_digest", "after": "after_digest"}))
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


class _Session:
    """The connection of one transaction: taken and entered with the first statement, so that many calls need none."""

    __slots__ = ("_begin", "_tenant", "connection", "pool")

    def __init__(self, pool: Pool, begin: str, tenant: UUID | None = None) -> None:
        self.pool = pool
        self._begin = begin
        self._tenant = tenant
        self.connection: Connection | None = None

    async def open(self) -> Connection:
        """The connection, inside the transaction. Raises Failure where the database cannot be reached."""
        if self.connection is None:
            # One round trip. The driver takes no parameters in a batch; a UUID's text is safe in one.
            enter = f"; SELECT enter_tenant('{UUID(str(self._tenant))}')" if self._tenant is not None else ""
            limit = f"SET LOCAL statement_timeout = {_statement_limit_ms()}"
            with translated():
                self.connection = Connection(await self.pool.take(f"{self._begin}; {limit}{enter}"))
        return self.connection

    async def end(self, error: BaseException | None) -> None:
        """Commits what was done, or takes it back where it ended with an error; gives the connection back.

        Raises what the error means to a caller, where it is the database's.
        """
        with translated():
            try:
                if error is not None:
                    await self._roll_back()
                elif self.connection is not None:
                    try:
                        await self.connection.driver.execute("COMMIT")
                    except BaseException:
                        await self._roll_back()
                        raise
            finally:
                if self.connection is not None:
                    self.pool.give_back(self.connection.driver)
                    self.connection = None
            if error is not None:
                raise error

    async def _roll_back(self) -> None:
        """Ends the transaction come what may; a connection that cannot is thrown away, never handed on inside one.

        Such a connection is no failure of its own: what ended the transaction is what the caller hears of.
        """
        if self.connection is None or self.connection.driver.is_closed():
            return  # nothing was done, or the driver gave up a statement that was cancelled, and the connection
        try:
            await asyncio.shield(self.connection.driver.execute("ROLLBACK"))
        except BaseException as error:
            self.connection.driver.terminate()
            if not isinstance(error, Exception):
                raise


class Tx:
    """A transaction inside one tenant. Statements see that tenant's rows and no others."""

    def __init__(self, session: _Session, tenant: UUID, schema: Schema, clock: Clock) -> None:
        self.tenant = tenant
        self.schema = schema
        self._session = session
        self._clock = clock
        self._now: datetime | None = None
        self._gathered: dict[Write[Any], list[Any]] = {}

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> int:
        """Runs a statement with ``tenant`` bound, and says how many rows it touched."""
        connection = await self._session.open()
        return await connection.execute(statement, {"tenant": self.tenant, **(parameters or {})})

    async def execute_many(self, statement: Executable, parameters: Sequence[Parameters]) -> None:
        """Runs a statement once for each mapping, in one round trip. All mappings have the same names."""
        if parameters:
            connection = await self._session.open()
            await connection.execute_many(statement, parameters, {"tenant": self.tenant})

    async def rows(self, statement: Executable, parameters: Parameters | None = None) -> list[Row]:
        """The rows that a statement returns, with ``tenant`` bound."""
        connection = await self._session.open()
        return await connection.rows(statement, {"tenant": self.tenant, **(parameters or {})})

    async def rows_alone(
        self, statement: Executable, parameters: Parameters | None = None, *, writes: bool = False
    ) -> list[Row]:
        """Like ``rows``, in one round trip where it is the first statement: then it is a transaction of its own.

        For what is likely to be the only statement of a call. A SELECT on tables of tenants, or what
        `chassis.writes.together` makes.
        """
        if self._session.connection is not None:
            return await self.rows(statement, parameters)
        values = {"tenant": self.tenant, **(parameters or {})}
        it = prepared(statement, values)
        return await self._session.pool.fetch_alone(it.alone, it.arguments(values), again=not writes)

    async def row_by_id(self, statement: Executable, row_id: UUID) -> Row | None:
        """The row of an id. ``statement`` selects by the parameter ``ids``; calls of one moment share the work."""
        if self._session.connection is None:
            return await self._session.pool.row_shared(statement, self.tenant, row_id)
        rows = await self.rows(statement, {"ids": [row_id]})
        return rows[0] if rows else None

    @property
    def begun(self) -> bool:
        """Whether a statement was run that the commit belongs to."""
        return self._session.connection is not None

    async def now(self) -> datetime:
        """The database's clock, read once: the commit time of what this transaction makes."""
        if self._now is None:
            self._now = self._clock.now() or await self._clock.read(self._session)
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


class Clock:
    """The database's clock, carried on by this process's monotonic one for a second at a time.

    The machine's own wall clock has no say, so a process whose clock is wrong writes right times. A time is never
    ahead of the database's: what a reading took to arrive counts as none.
    """

    def __init__(self) -> None:
        self._read: datetime | None = None
        self._at = 0.0
        self._reading = asyncio.Lock()

    def now(self) -> datetime | None:
        """The time, or None where the last reading is too old."""
        passed = time.monotonic() - self._at
        return self._read + timedelta(seconds=passed) if self._read is not None and passed < _CLOCK_LIFE_S else None

    async def read(self, session: _Session) -> datetime:
        """The time as the database has it now; without a transaction one reading serves all who ask meanwhile."""
        if session.connection is not None:
            return self._took(await session.connection.driver.fetchval(_CLOCK))
        async with self._reading:
            return self.now() or self._took((await session.pool.fetch_alone(_CLOCK, (), again=True))[0][0])

    def _took(self, found: datetime) -> datetime:
        self._read, self._at = found, time.monotonic()
        return found


class Transaction:
    """A transaction as an ``async with`` block, which gets its Tx. It begins with the first statement."""

    __slots__ = ("_session", "_tx")

    def __init__(self, database: Database, session: _Session, tenant: UUID) -> None:
        self._session = session
        self._tx = Tx(session, tenant, database.schema, database.clock)

    async def __aenter__(self) -> Tx:
        return self._tx

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                await self._tx.write_gathered()
            except BaseException as failed:
                error = failed
        if error is not None or self._session.connection is not None:
            await self._session.end(error)


class Database:
    """The connections of one process to its service's database."""

    def __init__(self, settings: Settings, schema: Schema) -> None:
        self.schema = schema
        self.clock = Clock()
        self._app = _pool(settings.database_url, settings.pool_size, schema.name)
        self._worker: Pool | None = None
        if settings.worker_database_url is not None:
            self._worker = _pool(settings.worker_database_url, 3, f"{schema.name}-worker")

    def read(self, tenant: UUID) -> Transaction:
        """A read-only transaction of one tenant."""
        return Transaction(self, _Session(self._app, "BEGIN READ ONLY", tenant), tenant)

    def write(self, tenant: UUID) -> Transaction:
        """A transaction of one tenant that commits at the end of the block and rolls back on any exception."""
        return Transaction(self, _Session(self._app, "BEGIN", tenant), tenant)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Connection]:
        """A transaction of the worker role, which sees all tenants in the few tables that are declared so."""
        if self._worker is None:
            raise RuntimeError("RAPPORT_WORKER_DATABASE_URL is not set")
        session = _Session(self._worker, "BEGIN")
        try:
            yield await session.open()
        except BaseException as error:
            await session.end(error)
            raise
        await session.end(None)

    async def due(self, statement: Executable) -> list[Row]:
        """What a SELECT finds in all tenants, as the worker role: in one round trip, for who asks again and again."""
        if self._worker is None:
            raise RuntimeError("RAPPORT_WORKER_DATABASE_URL is not set")
        it = prepared(statement)
        with translated():
            return await self._worker.fetch_alone(it.text, it.arguments({}), again=True)

    async def ping(self) -> None:
        """Raises Unavailable where the database cannot be reached within a second."""
        with translated():
            async with asyncio.timeout(1):
                await self._app.fetch_alone("SELECT 1", (), again=True)

    @property
    def checked_out(self) -> int:
        """How many connections of the app role are in use."""
        return self._app.checked_out

    async def close(self) -> None:
        """Closes every connection."""
        await self._app.close()
        if self._worker is not None:
            await self._worker.close()


def _pool(dsn: SecretStr, size: int, name: str) -> Pool:
    return Pool(dsn.get_secret_value(), size, name, statement_limit_ms=STATEMENT_LIMIT_MS)


def _statement_limit_ms() -> int:
    call = context.current_or_none()
    if call is None:
        return STATEMENT_LIMIT_MS
    return max(1, min(STATEMENT_LIMIT_MS, int(call.remaining_s() * 1000)))


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
        # 22000: the driver itself refuses a value that its type cannot hold.
        ("22P05", "22021", "22P02", "22003", "22008", "22000"),
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
    if isinstance(error, (OSError, TimeoutError)) or is_disconnect(error):
        return Unavailable(Reason.REASON_UNAVAILABLE, "the database cannot be reached; try again", retry_s=0.1)
    return None


def constraint_of(error: BaseException) -> str:
    """The name of the unique constraint that an error says was broken; empty for other errors."""
    return str(getattr(error, "constraint_name", "") or "") if _sqlstate(error) == "23505" else ""


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", "") or "")


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
