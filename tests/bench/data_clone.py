"""Copies a block of records many times inside the databases, each copy under ids of its own.

A block's ids all begin with the same millisecond, and what must be unique beyond it (external ids, domains) holds the
same ten letters. So a copy is the block with those letters replaced by others: in every column, and in the serialised
records of ledger and timeline, whose lengths stay as they are. Ids of other blocks, of users and of stages stay too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ARRAY, LargeBinary, Table, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from tests.bench.data_copy import SCHEMAS, Connection, Rows
from tests.bench.data_people import World

_QUIET_LIMIT_S: Final = 60.0


class Stencil:
    """The rows of a service's records in one block, kept in each database for a session, to be copied.

    ``tables`` are the rows by service and table; their positions count from 1.
    """

    def __init__(self, service: str, world: World, tables: Mapping[str, Mapping[Table, Rows]]) -> None:
        self._service = service
        self._rows = tables
        self._records = len(tables[service][SCHEMAS[service].ledger])
        self._statements: dict[str, list[str]] = {}
        self._world = world
        self.size = sum(len(rows) for made in tables.values() for rows in made.values())

    async def prepare(self, services: Mapping[str, Connection]) -> None:
        """Brings the rows to the databases, into tables that end with the session."""
        for name, tables in self._rows.items():
            for table, rows in tables.items():
                if not rows:
                    continue
                columns = [each for each in table.c if not (table.name == "ledger" and each.name == "id")]
                stencil = f"stencil_{table.name}"
                listed = ", ".join(f'"{each.name}"' for each in columns)
                await services[name].execute(
                    f"CREATE TEMP TABLE {stencil} AS SELECT {listed} FROM {table.name} WITH NO DATA"
                )
                await services[name].copy_records_to_table(stencil, records=rows)
                await services[name].execute(f"ANALYZE {stencil}")
                values = ", ".join(
                    self._value(each, [row[index] for row in rows]) for index, each in enumerate(columns)
                )
                self._statements.setdefault(name, []).append(
                    f"INSERT INTO {table.name} ({listed}) SELECT {values}"
                    f" FROM {stencil} stencil,"
                    " (SELECT $1::text AS mark, $2::text AS hex_mark, $3::bigint AS before) copy"
                )
        self._rows = {}

    def _value(self, column: Any, values: list[Any]) -> str:
        """A column of the copy as SQL; one in which no value tells of the block is taken as it is."""
        name = f'stencil."{column.name}"'
        if column.name == "position":
            return f"{name} + copy.before"
        mark, hex_mark = self._world.mark, self._world.hex_mark
        if isinstance(column.type, Uuid):
            changed = f"replace({name}::text, '{hex_mark}', copy.hex_mark)::uuid"
            return changed if any(hex_mark in str(each) for each in values) else name
        if isinstance(column.type, LargeBinary):
            if not any(each is not None and mark.encode() in each for each in values):
                return name
            plain = f"replace(encode({name}, 'escape'), '{mark}', copy.mark)"
            return f"decode(replace({plain}, '{hex_mark}', copy.hex_mark), 'escape')"
        if not any(mark in str(each) for each in values):
            return name
        if isinstance(column.type, (ARRAY, JSONB)):
            kind = "jsonb" if isinstance(column.type, JSONB) else "text[]"
            return f"replace({name}::text, '{mark}', copy.mark)::{kind}"
        return f"replace({name}, '{mark}', copy.mark)"

    async def copy(self, world: World, services: Mapping[str, Connection]) -> int:
        """Writes the copy that is ``world``'s block; how many rows of all tables that were.

        Waits until all events before it are published. Raises TimeoutError where that does not happen.
        """
        end = time.monotonic() + _QUIET_LIMIT_S
        while (before := await self._copy_home(world, services[self._service])) is None:
            if time.monotonic() > end:
                raise TimeoutError("the relay does not come to rest: something else writes, or NATS is away")
            await asyncio.sleep(0.05)
        for name, statements in self._statements.items():
            if name != self._service:
                await self._run(services[name], statements, world, before)
        return self.size

    async def _copy_home(self, world: World, home: Connection) -> int | None:
        """Records, natural keys and ledger in one transaction, which keeps the relay out.

        The position before the first; None while the relay has work to do.
        """
        async with home.transaction():
            relay = await home.fetchrow("SELECT last_position, watermark FROM relay WHERE id = 1 FOR UPDATE")
            assert relay is not None
            before = int(relay["last_position"])
            if before != relay["watermark"]:
                return None
            await self._run(home, self._statements[self._service], world, before)
            await home.execute(
                "UPDATE relay SET last_position = $1, watermark = $1 WHERE id = 1", before + self._records
            )
            return before

    async def _run(self, connection: Connection, statements: list[str], world: World, before: int) -> None:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement, world.mark, world.hex_mark, before)
