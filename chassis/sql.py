"""Statements on the wire: SQLAlchemy Core says them, each is compiled once, and asyncpg runs them.

Core's own execution costs several times what the database driver does (docs/decisions/0011-a-row-keeps-its-record.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncpg
import msgspec
from opentelemetry.trace import SpanKind
from sqlalchemy import ColumnElement, Executable, literal_column
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.engine import make_url
from sqlalchemy.sql.dml import Insert

from chassis import telemetry

_DIALECT: Final = dialect.dialect()  # type: ignore[no-untyped-call]
# Whoever waits longer for a connection is told that the service is overloaded.
_ACQUIRE_S: Final = 5.0
_CLOSE_S: Final = 5.0
# A connection that nobody needed for so long is closed.
_IDLE_S: Final = 300.0
Parameters = Mapping[str, Any]
_NONE: Final[Parameters] = MappingProxyType({})


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row: its values by column name, as attributes too."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def written(number: int) -> ColumnElement[Any]:
    """A number that stands in a statement's text, as limits do: with a parameter for one, PostgreSQL plans for a tenth
    of the table, or anew each time."""
    return literal_column(str(number))


class Prepared:
    """A compiled statement: its text, and how its parameters become the driver's arguments."""

    __slots__ = ("_alone", "_given", "_names", "text")

    def __init__(self, statement: Executable, keys: Sequence[str] | None = None) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=keys)  # type: ignore[attr-defined]
        if compiled.post_compile_params:
            raise TypeError("a list in IN has no place of its own in a prepared statement; say = ANY of an array")
        self.text: str = compiled.string
        self._names: list[str] = compiled.positiontup or []
        self._given: dict[str, Any] = compiled.params
        self._alone = ""

    def arguments(self, parameters: Parameters, common: Parameters = _NONE) -> list[Any]:
        """The values in the order of their places; those in common and of the statement itself where none is given."""
        given = {**self._given, **common} if common else self._given
        return [parameters[name] if name in parameters else given[name] for name in self._names]

    @property
    def alone(self) -> str:
        """The statement as one that first enters the tenant in its parameter ``tenant``, and needs no transaction.

        A SELECT is joined to what enters, so it can only run after it; the rows of an INSERT take their tenant
        from there. Row security is evaluated for each row, so later than either. What a WITH statement updates it
        does so after it has read what enters: its parts are carried out when its result asks for them, or after it.
        """
        if not self._alone:
            self._alone = self._inside()
        return self._alone

    def _inside(self) -> str:
        place = f"${self._names.index('tenant') + 1}::UUID"
        # The text is our own; values come as arguments.
        entered = f"entered AS MATERIALIZED (SELECT set_config('app.tenant_id', {place}::text, true)::uuid AS tenant)"
        if self.text.startswith("SELECT"):
            found = self.text.replace(place, "entered.tenant")
            return f"WITH {entered} SELECT found.* FROM entered CROSS JOIN LATERAL ({found}) AS found"  # noqa: S608
        assert self.text.startswith("WITH ")
        body = self.text[5:].replace(place, "(SELECT tenant FROM entered)")
        return f"WITH {entered}, {body} FROM entered"


_prepared: WeakKeyDictionary[Executable, dict[tuple[str, ...] | None, Prepared]] = WeakKeyDictionary()


def prepared(statement: Executable, parameters: Parameters | None = None) -> Prepared:
    """The compiled form of a statement, made once for each statement object.

    An INSERT takes the columns that ``parameters`` names beside those it names itself.
    """
    forms = _prepared.get(statement)
    if forms is None:
        forms = _prepared[statement] = {}
    keys = tuple(parameters) if parameters and isinstance(statement, Insert) else None
    found = forms.get(keys)
    if found is None:
        found = forms[keys] = Prepared(statement, keys)
    return found


class Connection:
    """A connection inside a transaction."""

    def __init__(self, driver: Any) -> None:
        self.driver: Any = driver

    async def rows(self, statement: Executable, parameters: Parameters = _NONE) -> list[Row]:
        """The rows that a statement returns."""
        it = prepared(statement, parameters)
        with _span(it.text):
            found: list[Row] = await self.driver.fetch(it.text, *it.arguments(parameters))
        return found

    async def execute(self, statement: Executable, parameters: Parameters = _NONE) -> int:
        """Runs a statement, and says how many rows it touched."""
        it = prepared(statement, parameters)
        with _span(it.text):
            done = await self.driver.execute(it.text, *it.arguments(parameters))
        return int(done.rpartition(" ")[2]) if done[-1:].isdigit() else 0

    async def execute_many(
        self, statement: Executable, parameters: Sequence[Parameters], common: Parameters = _NONE
    ) -> None:
        """Runs a statement once for each mapping, with what they have in common, without waiting in between.

        All have the same names.
        """
        if parameters:
            it = prepared(statement, {**common, **parameters[0]})
            with _span(it.text):
                await self.driver.executemany(it.text, [it.arguments(each, common) for each in parameters])


class Pool:
    """A bounded number of connections of one role. They are opened when needed, and carry nothing from use to use.

    The driver's own pool costs twice what a small statement costs with it, for what is not needed here.
    """

    def __init__(self, dsn: str, size: int, name: str, *, statement_limit_ms: int) -> None:
        self._size = size
        self._free = asyncio.Semaphore(size)
        # With the time since when nobody used it; the last one is used next, so that the others grow old.
        self._idle: list[tuple[Any, float]] = []
        self._used: set[Any] = set()
        self._closed = False
        # By statement and tenant: who waits for which id, and the task that fetches.
        self._asked: dict[tuple[Executable, Any], dict[Any, list[asyncio.Future[Row | None]]]] = {}
        self._fetching: dict[tuple[Executable, Any], asyncio.Task[None]] = {}
        self._dsn = make_url(dsn).set(drivername="postgresql").render_as_string(hide_password=False)
        self._options: dict[str, Any] = {
            "record_class": Row,
            "timeout": 2,
            # Without it a dead peer holds a call far beyond its deadline (MagicStack/asyncpg #1326).
            "command_timeout": statement_limit_ms / 1000 + 1,
            "max_cached_statement_lifetime": 0,
            "max_cacheable_statement_size": 64 * 1024,
            "server_settings": {
                "application_name": f"rapport-{name}",
                "statement_timeout": str(statement_limit_ms),
                "lock_timeout": "4000",
                "idle_in_transaction_session_timeout": "10000",
                "timezone": "UTC",
                # What is read often is in memory or on a disk without a head to move. With the default of 4 a search
                # in a tenant of 10,000 reads all of its records rather than nine by their key.
                "random_page_cost": "1.1",
            },
        }

    async def _acquire(self) -> Any:
        """A connection. Nothing is reset: whatever is set is set for its transaction alone.

        One whose statement was given up waits by itself until the server has heard of that.
        """
        if self._free.locked():
            async with asyncio.timeout(_ACQUIRE_S):
                await self._free.acquire()
        else:
            await self._free.acquire()
        try:
            driver = self._youngest()
            if driver is None:
                driver = await self._connect()
        except BaseException:
            self._free.release()
            raise
        self._used.add(driver)
        return driver

    async def _connect(self) -> Any:
        driver = await asyncpg.connect(self._dsn, **self._options)
        try:
            await _set_up(driver)
        except BaseException:
            driver.terminate()
            raise
        return driver

    def _youngest(self) -> Any:
        while self._idle:
            driver, _ = self._idle.pop()
            if not driver.is_closed():
                return driver
        return None

    def _release(self, driver: Any) -> None:
        self._used.discard(driver)
        self._free.release()
        if self._closed:
            driver.terminate()
        elif not driver.is_closed():
            now = time.monotonic()
            self._idle.append((driver, now))
            while self._idle[0][1] < now - _IDLE_S:
                self._idle.pop(0)[0].terminate()

    async def take(self, begin: str) -> Any:
        """A driver's connection on which ``begin`` was run; it goes back by ``give_back``.

        A pool does not notice that its server was restarted. So a connection that turns out dead before anything
        was done on it is thrown away and the next one taken.
        """
        for attempts_left in reversed(range(self._size + 1)):
            driver = await self._acquire()
            try:
                await driver.execute(begin)
            except BaseException as error:
                driver.terminate()
                self._release(driver)
                if attempts_left and is_disconnect(error):
                    continue
                raise
            return driver
        raise AssertionError("the last attempt returns or raises")

    def give_back(self, driver: Any) -> None:
        """Takes a connection back. One that may still be inside a transaction is to be ended before."""
        self._release(driver)

    async def fetch_alone(self, text: str, arguments: Sequence[Any], *, again: bool) -> list[Row]:
        """The rows of a statement that is a transaction of its own.

        ``again`` says that it may be asked again where the connection turns out dead, as a read may.
        """
        for attempts_left in reversed(range(self._size + 1)):
            driver = await self._acquire()
            try:
                with _span(text):
                    found: list[Row] = await driver.fetch(text, *arguments)
            except BaseException as error:
                if not is_disconnect(error):
                    await _settle(driver, error)
                    raise
                driver.terminate()
                if not (again and attempts_left):
                    raise
            else:
                return found
            finally:
                self._release(driver)
        raise AssertionError("the last attempt returns or raises")

    async def row_shared(self, statement: Executable, tenant: Any, key: Any) -> Row | None:
        """The row of an id, fetched together with those that other calls of this moment ask for.

        ``statement`` selects a tenant's rows by the parameter ``ids`` and has a column ``id``. What is asked for while
        a fetch is under way goes with the next one, so a row is never older than the question.
        """
        group = (statement, tenant)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Row | None] = loop.create_future()
        self._asked.setdefault(group, {}).setdefault(key, []).append(future)
        if group not in self._fetching:
            self._fetching[group] = loop.create_task(self._fetch_shared(group))
        return await future

    async def _fetch_shared(self, group: tuple[Executable, Any]) -> None:
        statement, tenant = group
        try:
            while asked := self._asked.pop(group, None):
                try:
                    values = {"tenant": tenant, "ids": list(asked)}
                    it = prepared(statement, values)
                    rows = await self.fetch_alone(it.alone, it.arguments(values), again=True)
                except Exception as error:
                    for future in _waiting(asked):
                        future.set_exception(error)
                else:
                    found = {row["id"]: row for row in rows}
                    for key, futures in asked.items():
                        for future in futures:
                            if not future.done():
                                future.set_result(found.get(key))
        finally:
            del self._fetching[group]

    @property
    def checked_out(self) -> int:
        """How many connections are in use."""
        return len(self._used)

    async def close(self) -> None:
        """Closes every connection, those in use too after a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                for _ in range(self._size):
                    await self._free.acquire()
        self._closed = True
        for driver in [*self._used, *(driver for driver, _ in self._idle)]:
            driver.terminate()
        self._idle.clear()


def _waiting(asked: Mapping[Any, Sequence[asyncio.Future[Any]]]) -> list[asyncio.Future[Any]]:
    return [future for futures in asked.values() for future in futures if not future.done()]


async def _set_up(driver: Any) -> None:
    for kind in ("json", "jsonb"):
        await driver.set_type_codec(kind, encoder=_json, decoder=msgspec.json.decode, schema="pg_catalog")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def _settle(driver: Any, error: BaseException) -> None:
    """Ends what a statement began that the driver gave up between preparing and running it, as it does when cancelled.

    The server's limit for the statement still runs then, and would strike at whatever comes next on the connection.
    """
    if isinstance(error, asyncpg.PostgresError) or driver.is_closed():
        return  # the server ended it, or the driver the connection
    try:
        await asyncio.shield(driver.execute("SELECT"))
    except BaseException as failure:
        driver.terminate()
        if not isinstance(failure, Exception):
            raise


def is_disconnect(error: BaseException) -> bool:
    """Whether an error says that the connection is gone, not that a statement is wrong."""
    # InternalClientError: a connection that died in the middle of an operation is used once more.
    lost = asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError, ConnectionError
    return isinstance(error, lost)


class _Unrecorded:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_UNRECORDED: Final = _Unrecorded()


def _span(statement: str) -> Any:
    """The span of a statement, where the trace is recorded."""
    if not telemetry.recording():
        return _UNRECORDED
    name = telemetry.statement_name(statement)
    return telemetry.span(name, kind=SpanKind.CLIENT, attributes=telemetry.sql_attributes(name))
